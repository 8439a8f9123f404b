/** Stands in for the SDK's end-to-end encryption, which this page does not use: it must never be called. */

const missing = (): never => {
  throw new Error("this page is built without end-to-end encryption");
};

export const initRustCrypto = missing;
export const Ecies = missing;
export const QrCodeData = missing;
export const QrCodeIntent = { Login: 0, Reciprocate: 1 };
