/** Questions to the server. Each fails with an Error that says in words what went wrong. */

const token = new URLSearchParams(location.search).get("token") ?? "";

class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, { ...options, headers: { "X-Token": token } });
  } catch {
    throw new ServerError("The server does not answer. Is the command still running?", 0);
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new ServerError(body.error ?? `the server answered ${response.status}`, response.status);
  return body;
}

const send = (path, method, body) => ask(path, { method, body: JSON.stringify(body) });

export const folder = () => ask("folder");
export const predictions = (start) => ask(`predictions?start=${start}`);
export const image = (index) => ask(`images/${index}`);
export const mask = (index) => ask(`images/${index}/mask`);
export const classMap = (index, number) => ask(`images/${index}/classes/${number}`);
export const answer = (index, maps) => send(`images/${index}/answer`, "POST", { maps });
export const save = (index, maps, revision) => send(`images/${index}/edit`, "PUT", { maps, revision });
export const remove = (index, revision) => send(`images/${index}/edit`, "DELETE", { revision });

/** Returns the address of a picture of an image, "picture" or "thumbnail". */
export const address = (index, kind) => `api/images/${index}/${kind}?token=${encodeURIComponent(token)}`;
