//! TLS from the client's side, by the files that etcdctl takes: an authority, and a certificate of one's own where the server
//! asks for one.

use std::{fs, path::Path, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

use crate::{Client, Error, Options, Scheme};

/// Makes encrypted connections; clones share what was read.
#[derive(Clone)]
pub struct Tls {
    grpc: TlsConnector,
    plain: TlsConnector,
}

impl Tls {
    /// `authority` None: whoever answers is believed. `own`: certificate and key.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn new(authority: Option<&Path>, own: Option<(&Path, &Path)>) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(|cause| cause.to_string())?;
        let builder = match authority {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(authority)? {
                    roots.add(certificate).map_err(|cause| format!("{}: {cause}", authority.display()))?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Believer(provider))),
        };
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let pem = read(key)?;
                let parsed =
                    PrivateKeyDer::from_pem_slice(&pem).map_err(|cause| format!("{}: {cause}", key.display()))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, parsed)
                    .map_err(|cause| format!("{}: {cause}", certificate.display()))?
            }
        };
        let plain = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Tls { grpc: TlsConnector::from(Arc::new(config)), plain })
    }

    /// Connects to `host:port` for calls.
    pub async fn connect(&self, address: &str, options: Options) -> Result<Client, Error> {
        let stream = shake_hands(&self.grpc, address).await?;
        Client::over(stream, Scheme::HTTPS, address, options).await
    }

    /// Connects to `host:port` for whatever the caller will speak, which is not told to the server.
    pub async fn stream(&self, address: &str) -> Result<TlsStream<TcpStream>, Error> {
        shake_hands(&self.plain, address).await
    }
}

async fn shake_hands(connector: &TlsConnector, address: &str) -> Result<TlsStream<TcpStream>, Error> {
    let socket = TcpStream::connect(address).await.map_err(Error::transport)?;
    socket.set_nodelay(true).map_err(Error::transport)?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(Error::transport)?;
    connector.connect(name, socket).await.map_err(Error::transport)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{}: no certificate in it", path.display())),
        Err(cause) => Err(format!("{}: {cause}", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|cause| format!("{}: {cause}", path.display()))
}

/// Takes whoever answers for the server, but wants him to have the key of what he shows.
#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, tokio_rustls::rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
