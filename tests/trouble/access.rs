//! How clients reach a member: plainly, or within TLS and as a user.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use urd_client::{Client, Error, Options, Scheme};

use crate::{cluster::endpoint, network::address, server::certificates::Certificates};

#[derive(Clone, Default)]
pub struct Access {
    tls: Option<TlsConnector>,
    /// Name and password.
    user: Option<(String, String)>,
}

impl Access {
    pub fn within_tls(certificates: &Certificates) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(certificates.path("ca.pem")).expect("it was just written");
        roots.add(authority).expect("it is one");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("they are there")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Access { tls: Some(TlsConnector::from(Arc::new(config))), user: None }
    }

    pub fn of_user(self, name: &str, password: &str) -> Self {
        Access { user: Some((name.to_owned(), password.to_owned())), ..self }
    }

    pub async fn connect(&self, place: usize) -> Result<Client, Error> {
        let endpoint = endpoint(place);
        let client = match &self.tls {
            None => Client::connect(&endpoint).await?,
            Some(tls) => {
                let within = async {
                    let name = ServerName::try_from(address(place)).map_err(io::Error::other)?;
                    tls.connect(name, TcpStream::connect(&endpoint).await?).await
                };
                let stream = within.await.map_err(|cause| Error::Transport(cause.to_string()))?;
                Client::over(stream, Scheme::HTTPS, &endpoint, Options::default()).await?
            }
        };
        match &self.user {
            Some((name, password)) => client.log_in(name, password).await,
            None => Ok(client),
        }
    }
}
