// Who is signed in, and in which organisation. The token lives in this tab only.

const STORE = "artcafe.session";
const NOTHING = { token: null, email: "", userId: "", refreshToken: null, issuer: null, tenant: null };

/** Tells "changed", "signed-out" and "renewing" (the token must be renewed now). */
class Session extends EventTarget {
  #state = { ...NOTHING };
  #renewal = null;
  permissions = new Set();
  role = "";

  constructor() {
    super();
    try {
      Object.assign(this.#state, JSON.parse(sessionStorage.getItem(STORE) ?? "{}"));
    } catch {
      sessionStorage.removeItem(STORE);
    }
  }

  get token() {
    return this.#state.token;
  }

  get email() {
    return this.#state.email;
  }

  get userId() {
    return this.#state.userId;
  }

  /** The issuer that the person signed in at; null is the local one. */
  get issuer() {
    return this.#state.issuer;
  }

  get refreshToken() {
    return this.#state.refreshToken;
  }

  get tenant() {
    return this.#state.tenant;
  }

  /** Tell whether the person may do a kind of thing here, as the server said when the socket was opened. */
  may(permission) {
    return this.permissions.has(permission);
  }

  /** Take a new token; it must be of the same person where there was one. */
  signIn(token, { issuer = null, refreshToken = null } = {}) {
    const claims = claimsOf(token);
    if (this.userId && claims.sub !== this.userId) throw new Error("That is another person: sign out first.");
    this.#set({
      token,
      issuer,
      refreshToken,
      email: claims.email ?? claims["cognito:username"] ?? claims.username ?? claims.sub,
      userId: claims.sub,
    });
    this.#renewal?.resolve();
    this.#renewal = null;
  }

  /** Choose the organisation to work in; null asks again. */
  choose(tenant) {
    this.permissions = new Set();
    this.role = "";
    this.#set({ tenant: tenant && { id: tenant.tenant_id, name: tenant.name } });
  }

  /** Take what the server said about the person in this organisation. */
  allow(role, permissions) {
    const changed = this.role !== role || [...this.permissions].join() !== permissions.join();
    this.role = role;
    this.permissions = new Set(permissions);
    if (changed) this.dispatchEvent(new Event("allowed"));
  }

  /** Forget everything. */
  signOut() {
    sessionStorage.removeItem(STORE);
    const { issuer } = this.#state;
    this.#state = { ...NOTHING };
    this.permissions = new Set();
    this.role = "";
    this.#renewal?.reject(new Error("You have signed out."));
    this.#renewal = null;
    this.dispatchEvent(new CustomEvent("signed-out", { detail: { issuer } }));
  }

  /** Ask for a new token and wait until there is one; everybody who asks meanwhile waits for the same. */
  renew() {
    if (!this.#renewal) {
      this.#renewal = withResolvers();
      this.#renewal.promise.catch(() => {});
      this.dispatchEvent(new Event("renewing"));
    }
    return this.#renewal.promise;
  }

  #set(fields) {
    Object.assign(this.#state, fields);
    sessionStorage.setItem(STORE, JSON.stringify(this.#state));
    this.dispatchEvent(new Event("changed"));
  }
}

/** Read a token's claims to show them; the server alone decides whether they hold. */
export function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(payload), (c) => c.charCodeAt(0))));
  } catch {
    throw new Error("The identity provider's answer holds no readable token.");
  }
}

function withResolvers() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

export const session = new Session();
