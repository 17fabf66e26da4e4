//! TLS from the side that calls: this member, of others. Who answers must be of an authority of `--peer-trusted-ca-file`, or else
//! of the system's, and of the host that was called. (etcd: client/pkg/transport, TLSInfo.ClientConfig.)

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{
    Secured,
    admission::{Admission, is_of_host},
    clients::{authorities, may_be, system_file},
    keys::KeyFiles,
    provider, read, unfit, versions,
};
use crate::{
    config::tls::{Files, Tls},
    limits, runtime,
};

/// Makes encrypted connections of those that this member has opened.
pub struct Caller {
    connector: TlsConnector,
    /// None where this side has no certificate: then it has no names that it allows, either.
    admission: Option<Admission>,
}

impl Caller {
    /// Of one side's flags. Reads and checks every file once.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn new(tls: &Tls, files: &Files) -> Result<Self, String> {
        // A certificate that every member makes for itself proves nothing, and nothing is asked of it (etcd: selfCert).
        Caller::speaking(&[], tls, files, files.auto && files.trusted_ca.as_os_str().is_empty())
    }

    /// The same of a service that speaks gRPC. `believes`: whoever answers is taken for it.
    ///
    /// # Errors
    /// As above.
    pub fn of_grpc(files: &Files, believes: bool) -> Result<Self, String> {
        Caller::speaking(&[b"h2"], &Tls::default(), files, believes)
    }

    fn speaking(protocols: &[&[u8]], tls: &Tls, files: &Files, believes: bool) -> Result<Self, String> {
        let provider = Arc::new(provider(tls));
        let versions = versions(tls);
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions);
        let builder = builder.map_err(unfit)?.dangerous();
        let builder = builder.with_custom_certificate_verifier(verifier(files, believes, &provider)?);
        let (cert, key) = match files.client_cert.as_os_str().is_empty() {
            true => (&files.cert, &files.key),
            false => (&files.client_cert, &files.client_key),
        };
        let mut config = match files.has_pair() {
            true => builder.with_client_cert_resolver(Arc::new(KeyFiles::new(cert, key, provider)?)),
            false => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // A list of the revoked is looked at by the side that is called alone, as in etcd.
        let admission = files.has_pair().then(|| Admission::new(&Files { crl: Default::default(), ..files.clone() }));
        Ok(Caller { connector: TlsConnector::from(Arc::new(config)), admission })
    }

    /// Shakes hands with `host` within `limits::TLS_HANDSHAKE_SECONDS_MAX`.
    ///
    /// # Errors
    /// Why not, for the log.
    pub async fn secure<S>(&self, io: S, host: &str) -> Result<Secured<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|cause| format!("tls: {cause}"))?;
        let limit = Duration::from_secs(limits::TLS_HANDSHAKE_SECONDS_MAX);
        let stream = match runtime::timeout(limit, self.connector.connect(name, io)).await {
            Some(Ok(stream)) => Secured::new(stream),
            Some(Err(cause)) => return Err(cause.to_string()),
            None => return Err("net/http: TLS handshake timeout".into()),
        };
        match &self.admission {
            Some(admission) => admission.check(stream.certificates()).map(|()| stream),
            None => Ok(stream),
        }
    }
}

fn verifier(
    files: &Files,
    believes: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if believes {
        return Ok(Arc::new(Verifier { by_chain: None, trusted: Vec::new(), provider: provider.clone() }));
    }
    let is_given = !files.trusted_ca.as_os_str().is_empty();
    let (roots, trusted) = match (is_given, system_file()) {
        (true, _) => authorities(&files.trusted_ca, &read(&files.trusted_ca)?, true)?,
        (false, Some(path)) => authorities(path, &read(path)?, false)?,
        (false, None) => (RootCertStore::empty(), Vec::new()),
    };
    let by_chain = match roots.is_empty() {
        true => Known::Nobody,
        false => Known::Roots(
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|cause| format!("{}: {cause}", files.trusted_ca.display()))?,
        ),
    };
    Ok(Arc::new(Verifier { by_chain: Some(by_chain), trusted, provider: provider.clone() }))
}

#[derive(Debug)]
enum Known {
    /// A system without authorities.
    Nobody,
    Roots(Arc<WebPkiServerVerifier>),
}

/// By chain, as usual, or by being trusted itself, as Go has it.
#[derive(Debug)]
struct Verifier {
    /// None: whoever answers is believed.
    by_chain: Option<Known>,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let by_chain = match &self.by_chain {
            None => return Ok(ServerCertVerified::assertion()),
            Some(Known::Nobody) => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
            Some(Known::Roots(roots)) => {
                roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
        };
        let is_trusted = || {
            self.trusted.contains(end_entity)
                && may_be(end_entity, now, |usage| usage.server_auth)
                && is_of_host(end_entity, &server_name.to_str())
        };
        match by_chain {
            Err(_) if is_trusted() => Ok(ServerCertVerified::assertion()),
            by_chain => by_chain,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
