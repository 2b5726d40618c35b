"""Topic preview: a tenant's live traffic on its dashboards, at no agent's cost."""
