/** Finds elements of the page, and loads pictures. */

export const element = (id) => document.getElementById(id);

/** Returns the value of the radio button that is chosen. */
export const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;

/** Loads a picture. */
export async function load(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode().catch(() => { throw new Error("The image cannot be shown."); });
  return picture;
}
