// The conversation that is shown is named in the address, so that a reload and the browser's back
// button work.

/** Return the id in the address, or "" for a new conversation. */
export function idInAddress() {
  return location.hash.slice(1);
}

/** Put an id into the address. */
export function setIdInAddress(id) {
  if (idInAddress() !== id) history.pushState(null, "", id ? `#${id}` : location.pathname);
}
