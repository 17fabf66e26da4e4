//! Certificates, keys and lists made of arbitrary bytes, for fuzzing: what clients show and what operators' files hold, and
//! the rules that must hold whatever is in them.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::{
    SignatureScheme,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    admission::{self, Admission},
    clients, keys,
};
use crate::{auth::base64, config::tls::Files};

/// A day in the year 2027: what is valid must not depend on when it is looked at.
const NOW_UNIX: u64 = 1_800_000_000;

const LABELS: [&str; 4] = ["CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];

/// The two lowest bits of the first byte say what the rest is: 0 a certificate that a client has shown; 1 a list of what is
/// revoked; 2 a file with a certificate and its key; 3 a file of authorities. With the next bit set a file is given as its
/// blocks (a byte of kind, two of length, the bytes), because nobody's mutations get through base 64.
/// Panics where somebody is let in who must not be.
pub fn fuzz_certificates(bytes: &[u8]) {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    let Some((&how, bytes)) = bytes.split_first() else { return };
    let text = || if how & 4 == 0 { bytes.to_vec() } else { spelled(bytes) };
    match how & 3 {
        0 => shown(&CertificateDer::from(bytes)),
        1 => {
            if let Some(revoked) = admission::serials(bytes) {
                assert!(revoked.iter().all(|serial| serial.first() != Some(&0)), "numbers as they are compared");
            }
        }
        2 => {
            let (name, text) = (Path::new("a file"), text());
            if let Ok(pair) = keys::pair((name, &text), (name, &text), &PROVIDER) {
                let signer = pair.key.choose_scheme(&[
                    SignatureScheme::ECDSA_NISTP256_SHA256,
                    SignatureScheme::ECDSA_NISTP384_SHA384,
                    SignatureScheme::ECDSA_NISTP521_SHA512,
                    SignatureScheme::ED25519,
                    SignatureScheme::RSA_PSS_SHA256,
                ]);
                assert!(signer.is_some_and(|signer| signer.sign(b"urd").is_ok()), "a key that is taken signs");
            }
        }
        _ => {
            let text = text();
            let Ok(verifier) = clients::of_authorities(Path::new("a file"), &text, how & 8 != 0, &PROVIDER) else {
                return;
            };
            let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW_UNIX));
            let long_ago = UnixTime::since_unix_epoch(Duration::ZERO);
            for certificate in CertificateDer::pem_slice_iter(&text).flatten() {
                let _ = verifier.verify_client_cert(&certificate, &[], now);
                let begins = X509Certificate::from_der(&certificate)
                    .map_or(0, |(_, parsed)| parsed.validity().not_before.timestamp());
                let is_taken = verifier.verify_client_cert(&certificate, &[], long_ago).is_ok();
                assert!(!is_taken || begins <= 0, "taken before it is valid");
            }
        }
    }
}

/// What is asked of a client's certificate once its chain is proven.
fn shown(own: &CertificateDer<'_>) {
    let chain = std::slice::from_ref(own);
    let allowing = |names: &[&str], hosts: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let files = Files { allowed_common_names: owned(names), allowed_hostnames: owned(hosts), ..Files::default() };
        Admission::new(&files).check(chain).is_ok()
    };
    assert!(allowing(&[], &[]), "nothing is asked");
    match admission::common_name(own) {
        Some(name) => {
            assert!(allowing(&["other", &name], &[]), "it is of an allowed name");
            assert!(!allowing(&[&format!("{name}x")], &[]), "it is of another name");
        }
        None => assert!(!allowing(&[""], &[]), "no name is none that is allowed"),
    }
    for host in ["localhost", "127.0.0.1", "[::1]", "*.example.com", ""] {
        assert_eq!(allowing(&[], &[host]), admission::is_of_host(own, host));
    }
    let serial = X509Certificate::from_der(own).map(|(_, parsed)| admission::significant(parsed.raw_serial()).to_vec());
    assert_eq!(admission::none_is_on(&HashSet::new(), chain).is_ok(), serial.is_ok(), "what cannot be read stays out");
    if let Ok(serial) = serial {
        assert!(admission::none_is_on(&HashSet::from([serial]), chain).is_err(), "it is revoked");
    }
}

/// Blocks as PEM.
fn spelled(mut blocks: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while let [kind, high, low, rest @ ..] = blocks {
        let (block, after) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        let label = LABELS[usize::from(*kind) % LABELS.len()];
        let block = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::encode(block));
        text.extend_from_slice(block.as_bytes());
        blocks = after;
    }
    text
}
