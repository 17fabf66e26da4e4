//! Whom clients' certificates must come from: the authorities of `--trusted-ca-file`, or the system's.

use std::{path::Path, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{ExtendedKeyUsage, FromDer, X509Certificate};

use super::read;

/// Where distributions keep the authorities that the system trusts, in Go's order (crypto/x509, root_linux.go).
const SYSTEM_FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// An empty path: the system's.
pub(super) fn verifier(trusted: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let is_given = !trusted.as_os_str().is_empty();
    let path = match is_given {
        true => trusted,
        false => system_file().ok_or(
            "--client-cert-auth without --trusted-ca-file trusts the system's authorities, and there are none: give \
             --trusted-ca-file",
        )?,
    };
    of_authorities(path, &read(path)?, is_given, provider)
}

/// Where this system keeps them.
pub(super) fn system_file() -> Option<&'static Path> {
    SYSTEM_FILES.map(Path::new).into_iter().find(|path| path.exists())
}

/// Of a file's name and contents.
pub(super) fn of_authorities(
    path: &Path,
    text: &[u8],
    is_given: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let (roots, trusted) = authorities(path, text, is_given)?;
    let by_chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|cause| format!("{}: {cause}", path.display()))?;
    Ok(Arc::new(Verifier { by_chain, trusted }))
}

/// The authorities that a file names, and their certificates.
pub(super) fn authorities(
    path: &Path,
    text: &[u8],
    is_given: bool,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let mut roots = RootCertStore::empty();
    let mut trusted = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|cause| format!("{}: {cause}", path.display()))?;
        match roots.add(certificate.clone()) {
            Ok(()) => trusted.push(certificate),
            // Among the hundreds of a system are some that are too old to be read.
            Err(_) if !is_given => {}
            Err(cause) => return Err(format!("{}: {cause}", path.display())),
        }
    }
    match trusted.is_empty() {
        true => Err(format!("{}: it holds no certificate of an authority", path.display())),
        false => Ok((roots, trusted)),
    }
}

/// By chain, as usual, or by being trusted itself: Go takes a certificate that is among the trusted ones whatever it may
/// be used for in a chain.
#[derive(Debug)]
struct Verifier {
    by_chain: Arc<dyn ClientCertVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let by_chain = self.by_chain.verify_client_cert(end_entity, intermediates, now);
        match by_chain {
            Err(_) if self.trusted.contains(end_entity) && may_be(end_entity, now, |usage| usage.client_auth) => {
                Ok(ClientCertVerified::assertion())
            }
            by_chain => by_chain,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

/// Whether its own words let it be a certificate of that usage now.
pub(super) fn may_be(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
    of_usage: impl FnOnce(&ExtendedKeyUsage<'_>) -> bool,
) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let now = now.as_secs() as i64;
    let validity = parsed.validity();
    let usage = match parsed.extended_key_usage() {
        Ok(Some(usage)) => usage.value.any || of_usage(usage.value),
        Ok(None) => true,
        Err(_) => false,
    };
    usage && validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp()
}
