/** Finds elements of the page. */

export const element = (id) => document.getElementById(id);

/** Returns the value of the radio button that is chosen. */
export const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
