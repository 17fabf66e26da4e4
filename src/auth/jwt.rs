//! Signed tokens: JWS in its compact form with the claims that etcd's carry, by any of the methods that etcd takes.
//! (RFC 7515, 7518, 7519; etcd: auth/jwt.go, auth/options.go.)

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{base64, keys::KeyPair};
use crate::{
    config::value,
    error::{self, Status},
};

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Hmac(Digest),
    /// PKCS #1, version 1.5.
    Rsa(Digest),
    RsaPss(Digest),
    /// On the curve of as many bits, 521 with SHA-512.
    Ecdsa(Digest),
    Ed25519,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digest {
    Sha256,
    Sha384,
    Sha512,
}

impl Method {
    const ALL: [(&'static str, Method); 13] = [
        ("HS256", Method::Hmac(Digest::Sha256)),
        ("HS384", Method::Hmac(Digest::Sha384)),
        ("HS512", Method::Hmac(Digest::Sha512)),
        ("RS256", Method::Rsa(Digest::Sha256)),
        ("RS384", Method::Rsa(Digest::Sha384)),
        ("RS512", Method::Rsa(Digest::Sha512)),
        ("PS256", Method::RsaPss(Digest::Sha256)),
        ("PS384", Method::RsaPss(Digest::Sha384)),
        ("PS512", Method::RsaPss(Digest::Sha512)),
        ("ES256", Method::Ecdsa(Digest::Sha256)),
        ("ES384", Method::Ecdsa(Digest::Sha384)),
        ("ES512", Method::Ecdsa(Digest::Sha512)),
        ("EdDSA", Method::Ed25519),
    ];
}

/// What makes and proves signed tokens.
pub struct Jwt {
    name: &'static str,
    keys: KeyPair,
    ttl_seconds: i64,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub user: String,
    pub revision: u64,
    /// From when on and until when it counts, unix time in seconds; None: always.
    begins: Option<f64>,
    ends: Option<f64>,
}

#[derive(Serialize)]
struct ClaimsOut<'a> {
    exp: i64,
    revision: u64,
    username: &'a str,
}

#[derive(Deserialize)]
struct HeaderIn {
    alg: String,
}

impl Jwt {
    /// Of the options behind `jwt,`; those of other names are passed over, as in etcd.
    pub(super) fn from_options(
        options: &[(&str, &str)],
        read: &dyn Fn(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<Self, String> {
        let invalid = |what: String| format!("auth: invalid auth options: {what}");
        let option = |wanted: &str| {
            let found = options.iter().find(|(name, value)| *name == wanted && !value.is_empty());
            found.map(|(_, value)| *value)
        };
        let ttl = match option("ttl") {
            None => 5 * 60 * 1_000_000_000,
            Some(text) => value::parse_duration(text).map_err(invalid)?,
        };
        let file = |name: &str| match option(name) {
            None => Ok(None),
            Some(path) => read(path).map(Some).map_err(|cause| invalid(format!("{name}={path}: {cause}"))),
        };
        let (public, private) = (file("pub-key")?, file("priv-key")?);
        let named = option("sign-method").unwrap_or_default();
        let (name, method) = Method::ALL
            .into_iter()
            .find(|(name, _)| *name == named)
            .ok_or_else(|| format!("auth: invalid auth signature method: sign-method={named} is not known"))?;
        let keys = KeyPair::new(method, public.as_deref(), private.as_deref()).map_err(|cause| {
            format!("{cause}; sign-method={name} needs priv-key to sign, pub-key or priv-key to verify")
        })?;
        Ok(Jwt { name, keys, ttl_seconds: ttl.div_euclid(1_000_000_000) })
    }

    /// A token for a user. It takes what a signature takes, with RSA a millisecond or two.
    ///
    /// # Errors
    /// VERIFY_ONLY_KEY where there is no private key.
    pub fn sign(&self, user: &str, revision: u64, now_unix: i64) -> Result<String, Status> {
        let claims = ClaimsOut { exp: now_unix.saturating_add(self.ttl_seconds), revision, username: user };
        let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.name);
        let claims = serde_json::to_vec(&claims).expect("numbers and a text have a JSON form");
        let message = format!("{}.{}", base64::encode_url(header.as_bytes()), base64::encode_url(&claims));
        let signature = self.keys.sign(message.as_bytes()).ok_or(error::VERIFY_ONLY_KEY)??;
        Ok(format!("{message}.{}", base64::encode_url(&signature)))
    }

    /// What a token says, if it is signed by whom it must be. Whether it has ended is another question.
    pub fn claims(&self, token: &str) -> Option<Claims> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: HeaderIn = serde_json::from_slice(&base64::decode_url(header)?).ok()?;
        if header.alg != self.name {
            return None;
        }
        if !self.keys.verify(message.as_bytes(), &base64::decode_url(signature)?) {
            return None;
        }
        let claims: Value = serde_json::from_slice(&base64::decode_url(claims)?).ok()?;
        // One that is there must be a number; 0 says nothing, as to etcd's library.
        let time = |name: &str| match claims.get(name) {
            None => Some(None),
            Some(value) => value.as_f64().map(|seconds| (seconds != 0.0).then_some(seconds)),
        };
        Some(Claims {
            user: claims.get("username")?.as_str()?.to_owned(),
            revision: claims.get("revision")?.as_f64()? as u64,
            begins: time("nbf")?,
            ends: time("exp")?,
        })
    }
}

impl Claims {
    /// Whether the token counts now. (RFC 7519, sections 4.1.4 and 4.1.5.)
    pub fn count_at(&self, now_unix: f64) -> bool {
        self.ends.is_none_or(|ends| now_unix < ends) && self.begins.is_none_or(|begins| now_unix >= begins)
    }
}

#[cfg(test)]
mod tests;
