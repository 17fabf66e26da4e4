//! The keys of signed tokens, from the files that operators have: PEM of any of the forms that Go's libraries read. What is
//! done with them is the `jsonwebtoken` crate's business, and the `p521` crate's for the one curve that it lacks.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto, jwk::Jwk};
use p521::{
    ecdsa::{
        Signature, SigningKey, VerifyingKey,
        signature::{Signer as _, Verifier as _},
    },
    pkcs8::DecodePrivateKey as _,
};

use super::{
    base64,
    jwt::{Digest, Method},
};
use crate::error::Status;

/// What signs, if there is a private key, and what verifies.
pub(super) struct KeyPair {
    signer: Option<Signer>,
    verifier: Verifier,
}

enum Signer {
    Library(EncodingKey, Algorithm),
    P521(Box<SigningKey>),
}

enum Verifier {
    Library(DecodingKey, Algorithm),
    P521(Box<VerifyingKey>),
}

const MISSING: &str = "auth: missing key data";
const MISMATCH: &str = "auth: public and private keys don't match";

impl KeyPair {
    /// Of files' contents. With a method that has one secret it is the private key's.
    pub fn new(method: Method, public: Option<&[u8]>, private: Option<&[u8]>) -> Result<Self, String> {
        let (public, private) = (public.filter(|it| !it.is_empty()), private.filter(|it| !it.is_empty()));
        let signer = private.map(|private| Signer::new(method, private)).transpose()?;
        let verifier = match (method, public, &signer) {
            (Method::Hmac(_), _, Some(_)) => {
                let secret = private.expect("who signs has a key");
                let key = DecodingKey::from_secret(secret).map_err(|cause| unreadable("private", &cause))?;
                Verifier::Library(key, algorithm(method))
            }
            (Method::Hmac(_), _, None) | (_, None, None) => return Err(MISSING.into()),
            (_, Some(public), _) => Verifier::new(method, public)?,
            (_, None, Some(signer)) => signer.verifier()?,
        };
        let keys = KeyPair { signer, verifier };
        // That a key is of another kind than the method, or of another pair than the other one, is to be told at the start.
        if let Some(signature) = keys.sign(b"urd") {
            let signature =
                signature.map_err(|cause| format!("auth: the private key does not sign: {}", cause.message))?;
            if !keys.verify(b"urd", &signature) {
                return Err(MISMATCH.into());
            }
        }
        Ok(keys)
    }

    /// The signature of a message; None without a private key.
    pub fn sign(&self, message: &[u8]) -> Option<Result<Vec<u8>, Status>> {
        self.signer.as_ref().map(|signer| signer.sign(message))
    }

    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Library(key, algorithm) => {
                crypto::verify(&base64::encode_url(signature), message, key, *algorithm).unwrap_or(false)
            }
            Verifier::P521(key) => {
                Signature::from_slice(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
        }
    }
}

impl Signer {
    fn new(method: Method, private: &[u8]) -> Result<Self, String> {
        let library = |key: jsonwebtoken::errors::Result<EncodingKey>| {
            key.map(|key| Signer::Library(key, algorithm(method))).map_err(|cause| unreadable("private", &cause))
        };
        match method {
            Method::Hmac(_) => library(EncodingKey::from_secret(private)),
            Method::Rsa(_) | Method::RsaPss(_) => library(EncodingKey::from_rsa_pem(private)),
            Method::Ed25519 => library(EncodingKey::from_ed_pem(private)),
            Method::Ecdsa(Digest::Sha512) => {
                let secret = p521::SecretKey::from_pkcs8_der(&ec_pkcs8(private, Digest::Sha512)?)
                    .map_err(|cause| unreadable("private", &cause))?;
                let key = SigningKey::from_slice(&secret.to_bytes()).map_err(|cause| unreadable("private", &cause))?;
                Ok(Signer::P521(Box::new(key)))
            }
            Method::Ecdsa(digest) => library(Ok(EncodingKey::from_ec_der(&ec_pkcs8(private, digest)?))),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Status> {
        match self {
            Signer::Library(key, algorithm) => {
                let text =
                    crypto::sign(message, key, *algorithm).map_err(|cause| Status::internal(cause.to_string()))?;
                Ok(base64::decode_url(&text).expect("the library spells signatures for URLs"))
            }
            Signer::P521(key) => {
                let signature: Signature = key.sign(message);
                Ok(signature.to_bytes().to_vec())
            }
        }
    }

    /// The public half.
    fn verifier(&self) -> Result<Verifier, String> {
        match self {
            Signer::Library(key, algorithm) => {
                let public = Jwk::from_encoding_key(key, *algorithm).and_then(|jwk| DecodingKey::from_jwk(&jwk));
                Ok(Verifier::Library(public.map_err(|cause| unreadable("private", &cause))?, *algorithm))
            }
            Signer::P521(key) => Ok(Verifier::P521(Box::new(VerifyingKey::from(&**key)))),
        }
    }
}

impl Verifier {
    /// A public key, or the certificate of one.
    fn new(method: Method, public: &[u8]) -> Result<Self, String> {
        let key = match method {
            Method::Ed25519 => DecodingKey::from_ed_pem(public),
            Method::Ecdsa(_) => DecodingKey::from_ec_pem(public),
            _ => DecodingKey::from_rsa_pem(public),
        }
        .map_err(|cause| unreadable("public", &cause))?;
        if method != Method::Ecdsa(Digest::Sha512) {
            return Ok(Verifier::Library(key, algorithm(method)));
        }
        let point = key.try_get_as_bytes().map_err(|cause| unreadable("public", &cause))?;
        let key = VerifyingKey::from_sec1_bytes(point).map_err(|cause| unreadable("public", &cause))?;
        Ok(Verifier::P521(Box::new(key)))
    }
}

fn unreadable(which: &str, cause: &dyn std::fmt::Display) -> String {
    format!("auth: the {which} key cannot be read: {cause}")
}

/// As the library calls it.
fn algorithm(method: Method) -> Algorithm {
    use Digest::*;
    match method {
        Method::Hmac(Sha256) => Algorithm::HS256,
        Method::Hmac(Sha384) => Algorithm::HS384,
        Method::Hmac(Sha512) => Algorithm::HS512,
        Method::Rsa(Sha256) => Algorithm::RS256,
        Method::Rsa(Sha384) => Algorithm::RS384,
        Method::Rsa(Sha512) => Algorithm::RS512,
        Method::RsaPss(Sha256) => Algorithm::PS256,
        Method::RsaPss(Sha384) => Algorithm::PS384,
        Method::RsaPss(Sha512) => Algorithm::PS512,
        Method::Ecdsa(Sha256) => Algorithm::ES256,
        Method::Ecdsa(Sha384) => Algorithm::ES384,
        Method::Ecdsa(Sha512) => unreachable!("the library lacks it"),
        Method::Ed25519 => Algorithm::EdDSA,
    }
}

/// A private key on a curve as PKCS #8, which it is already or is wrapped into. (RFC 5915, RFC 5958.)
fn ec_pkcs8(pem: &[u8], digest: Digest) -> Result<Vec<u8>, String> {
    let (label, der) = first_block(pem).ok_or_else(|| unreadable("private", &"it is no PEM"))?;
    match &label[..] {
        "PRIVATE KEY" => Ok(der),
        "EC PRIVATE KEY" => {
            let curve: &[u8] = match digest {
                Digest::Sha256 => &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
                Digest::Sha384 => &[6, 5, 0x2b, 0x81, 4, 0, 0x22],
                Digest::Sha512 => &[6, 5, 0x2b, 0x81, 4, 0, 0x23],
            };
            // Version 0; an EC public key's algorithm on that curve; the key as an octet string.
            let ec: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
            let parts = [&[2, 1, 0][..], &der_element(0x30, &[ec, curve].concat()), &der_element(4, &der)];
            Ok(der_element(0x30, &parts.concat()))
        }
        other => Err(unreadable("private", &format!("it is a {other}"))),
    }
}

/// A DER element: tag, length, content. (X.690, section 8.1.)
fn der_element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match content.len() {
        len @ 0..128 => element.push(len as u8),
        len => {
            let bytes = len.to_be_bytes();
            let first = bytes.iter().position(|byte| *byte != 0).expect("it is not 0");
            element.push(0x80 | (bytes.len() - first) as u8);
            element.extend_from_slice(&bytes[first..]);
        }
    }
    element.extend_from_slice(content);
    element
}

/// The label and the bytes of a PEM file's first block. (RFC 7468.)
fn first_block(pem: &[u8]) -> Option<(String, Vec<u8>)> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let letters: String = body.split_whitespace().collect();
    Some((label.to_owned(), base64::decode(&letters)?))
}
