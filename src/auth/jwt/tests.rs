use std::{collections::BTreeMap, fs, path::Path};

use super::*;

/// Keys made for these tests by openssl: each kind in the forms that it comes in.
fn read(name: &str) -> std::io::Result<Vec<u8>> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name))
}

fn jwt(options: &[(&str, &str)]) -> Result<Jwt, String> {
    Jwt::from_options(options, &read)
}

/// Methods by their keys: private ones, then public ones of the same pair.
const KEYS: &[(&[&str], &[&str], &[&str])] = &[
    (
        &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        &["rsa.pem", "rsa-pkcs1.pem"],
        &["rsa-pub.pem", "rsa-pub-pkcs1.pem", "rsa-cert.pem"],
    ),
    (&["ES256"], &["ec256.pem", "ec256-sec1.pem"], &["ec256-pub.pem", "ec256-cert.pem"]),
    (&["ES384"], &["ec384.pem", "ec384-sec1.pem"], &["ec384-pub.pem", "ec384-cert.pem"]),
    (&["ES512"], &["ec521.pem", "ec521-sec1.pem"], &["ec521-pub.pem", "ec521-cert.pem"]),
    (&["EdDSA"], &["ed.pem"], &["ed-pub.pem"]),
    // Any bytes will do.
    (&["HS256", "HS384", "HS512"], &["ed-pub.pem"], &[]),
];

#[test]
fn what_is_signed_is_proven_by_every_form_of_the_keys() {
    let mut methods = 0;
    for (names, privates, publics) in KEYS {
        for name in *names {
            methods += 1;
            let signers: Vec<Jwt> = privates
                .iter()
                .map(|private| {
                    jwt(&[("sign-method", name), ("priv-key", private)]).unwrap_or_else(|e| panic!("{name}: {e}"))
                })
                .collect();
            let mut verifiers: Vec<Jwt> = Vec::new();
            for public in *publics {
                verifiers.push(jwt(&[("sign-method", name), ("pub-key", public)]).unwrap());
                for private in *privates {
                    let options = [("sign-method", *name), ("pub-key", public), ("priv-key", private), ("ttl", "10m")];
                    verifiers.push(jwt(&options).unwrap());
                }
            }
            for signer in &signers {
                let token = signer.sign("ann", 7, 1_000_000).unwrap();
                for verifier in signers.iter().chain(&verifiers) {
                    let claims = verifier.claims(&token).unwrap_or_else(|| panic!("{name}"));
                    assert_eq!((&claims.user[..], claims.revision), ("ann", 7));
                    assert!(claims.count_at(1_000_299.9) && !claims.count_at(1_000_300.0), "five minutes");
                }
                // A signature for another message.
                let (message, signature) = token.rsplit_once('.').unwrap();
                let other = signer.sign("eve", 7, 1_000_000).unwrap();
                let (stolen, _) = other.rsplit_once('.').unwrap();
                assert_eq!(signer.claims(&format!("{stolen}.{signature}")), None, "{name}");
                assert_eq!(signer.claims(&format!("{message}.")), None, "{name}");
                assert_eq!(signer.claims(message), None, "{name}");
            }
            if let Some(verify_only) = verifiers.first() {
                assert_eq!(verify_only.sign("ann", 7, 0), Err(error::VERIFY_ONLY_KEY));
            }
        }
    }
    assert_eq!(methods, Method::ALL.len());
}

#[test]
fn keys_that_do_not_fit_are_refused_at_the_start() {
    let refused = |options: &[(&str, &str)]| match jwt(options) {
        Ok(_) => panic!("{options:?} was taken"),
        Err(cause) => cause,
    };
    assert!(refused(&[("sign-method", "RS256")]).starts_with("auth: missing key data"));
    assert!(refused(&[("sign-method", "HS256"), ("pub-key", "rsa-pub.pem")]).starts_with("auth: missing key data"));
    let mismatch = refused(&[("sign-method", "ES256"), ("priv-key", "ec256.pem"), ("pub-key", "ec384-pub.pem")]);
    assert!(mismatch.starts_with("auth: public and private keys don't match"), "{mismatch}");
    for (method, private) in [
        ("ES256", "ec384.pem"),
        ("ES384", "ec256.pem"),
        ("ES512", "ec256.pem"),
        ("RS256", "ec256.pem"),
        ("EdDSA", "rsa.pem"),
        ("ES256", "rsa-pub.pem"),
    ] {
        assert!(refused(&[("sign-method", method), ("priv-key", private)]).starts_with("auth: "), "{method} {private}");
    }
    assert!(refused(&[("sign-method", "RS256"), ("priv-key", "none.pem")]).contains("none.pem"));
    assert!(refused(&[("sign-method", "XX256"), ("priv-key", "rsa.pem")]).contains("XX256"));
    assert!(refused(&[("sign-method", "HS256"), ("priv-key", "ed.pem"), ("ttl", "5")]).contains("missing unit"));
    // What is not known is passed over.
    assert!(jwt(&[("sign-method", "HS256"), ("priv-key", "ed.pem"), ("more", "1")]).is_ok());
}

#[test]
fn claims_are_taken_as_etcds_library_takes_them() {
    let jwt = jwt(&[("sign-method", "HS256"), ("priv-key", "ed.pem")]).unwrap();
    let of = |header: &str, claims: &str| {
        let message = format!("{}.{}", base64::encode_url(header.as_bytes()), base64::encode_url(claims.as_bytes()));
        let signature = jwt.keys.sign(message.as_bytes()).unwrap().unwrap();
        jwt.claims(&format!("{message}.{}", base64::encode_url(&signature)))
    };
    let header = r#"{"alg":"HS256"}"#;
    let counts = |claims: &str, at: f64| of(header, claims).is_some_and(|claims| claims.count_at(at));
    assert!(counts(r#"{"username":"a","revision":2}"#, 1e12), "one without an end");
    assert!(counts(r#"{"username":"a","revision":2,"exp":0}"#, 1e12));
    assert!(counts(r#"{"username":"a","revision":2.0,"exp":10.5,"nbf":5}"#, 10.0));
    assert!(!counts(r#"{"username":"a","revision":2,"nbf":5}"#, 4.0));
    for wrong in [
        r#"{"revision":2}"#,
        r#"{"username":"a"}"#,
        r#"{"username":7,"revision":2}"#,
        r#"{"username":"a","revision":"2"}"#,
        r#"{"username":"a","revision":2,"exp":"soon"}"#,
        r#"{"username":"a","revision":2,"exp":null}"#,
        "[]",
        "",
    ] {
        assert_eq!(of(header, wrong), None, "{wrong}");
    }
    let right = r#"{"username":"a","revision":2}"#;
    for wrong in [r#"{"alg":"none"}"#, r#"{"alg":"HS384"}"#, "{}", ""] {
        assert_eq!(of(wrong, right), None, "{wrong}");
    }
    for garbage in ["", ".", "..", "...", "a.b.c", "\u{e9}.\u{e9}.\u{e9}"] {
        assert_eq!(jwt.claims(garbage), None);
    }
}

/// Tokens that etcd 3.7.3 has given out, one for each method, with the keys of these tests.
#[test]
fn etcds_tokens_are_proven() {
    let tokens: BTreeMap<&str, &str> = include_str!("../../../tests/keys/etcd-3.7.3-tokens.txt")
        .lines()
        .map(|line| line.split_once(' ').expect("a method and a token"))
        .collect();
    assert_eq!(tokens.len(), Method::ALL.len());
    for (names, privates, _) in KEYS {
        for name in *names {
            let jwt = jwt(&[("sign-method", name), ("priv-key", privates[0])]).unwrap();
            let claims = jwt.claims(tokens[name]).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((&claims.user[..], claims.revision), ("root", 3), "{name}");
        }
    }
}
