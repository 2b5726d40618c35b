// Who is signed in, and in which organisation. The token lives in tabs only (tabs.js), never in lasting storage.

const STORE = "artcafe.session";
const NOTHING = { token: null, email: "", userId: "", refreshToken: null, issuer: null, tenant: null };

/** Tells "changed", "signed-out" (with `{userId, issuer, elsewhere}`) and "renewing" (the token must be renewed now). */
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

  /** Take a new token; it must be of the same person where there was one, and a person is of one issuer. */
  signIn(token, { issuer = null, userPrefix = "", refreshToken = null } = {}) {
    const claims = claimsOf(token);
    const userId = userPrefix + claims.sub;
    if (this.userId && userId !== this.userId) throw new Error("That is another person: sign out first.");
    this.#hold({
      token,
      issuer,
      refreshToken,
      email: claims.email ?? claims["cognito:username"] ?? claims.username ?? claims.sub,
      userId,
    });
  }

  /** Return what another tab of the same person is signed in with. */
  handOut() {
    return { ...this.#state };
  }

  /**
   * Be signed in as another tab is. Whoever is signed in here is the same person and stays in their organisation;
   * their token stays, too, unless the other holds for longer or this one has to be renewed.
   */
  takeOver({ token, email, userId, refreshToken, issuer, tenant }) {
    const isNewer = !this.token || this.#renewal || claimsOf(token).exp > claimsOf(this.token).exp;
    if (!isNewer || token === this.token) return;
    this.#hold({ token, email, userId, refreshToken, issuer, tenant: this.token ? this.tenant : tenant });
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

  /** Forget everything; `elsewhere` is that a person has asked for it in another tab. */
  signOut({ elsewhere = false } = {}) {
    sessionStorage.removeItem(STORE);
    const { userId, issuer } = this.#state;
    this.#state = { ...NOTHING };
    this.permissions = new Set();
    this.role = "";
    this.#renewal?.reject(new Error("You have signed out."));
    this.#renewal = null;
    this.dispatchEvent(new CustomEvent("signed-out", { detail: { userId, issuer, elsewhere } }));
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

  #hold(fields) {
    this.#set(fields);
    this.#renewal?.resolve();
    this.#renewal = null;
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
