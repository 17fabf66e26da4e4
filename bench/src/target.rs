//! Whom the load goes to: endpoints, TLS and a user; anything that speaks etcd's API will do. Connections are handed out
//! over the endpoints in turn. A password is never written into results.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use urd_client::{Client, Options, Scheme, etcdserverpb::AuthenticateRequest};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    /// host:port, several separated by commas; `http://` and `https://` before them are understood.
    #[arg(long, alias = "endpoint", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// The authority that the server's certificate is from. Turns TLS on.
    #[arg(long)]
    pub cacert: Option<PathBuf>,
    /// The driver's own certificate, for a server that asks for one.
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// The key of `--cert`.
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// `name:password`.
    #[arg(long)]
    #[serde(skip)]
    pub user: Option<String>,
}

/// Connects as a target says.
pub struct Dialer {
    target: Target,
    tls: Option<TlsConnector>,
    /// How many connections were handed out.
    next: Cell<usize>,
    token: RefCell<Option<String>>,
}

impl Dialer {
    /// # Errors
    /// If a certificate cannot be read, or `https` is asked for and no authority is given.
    pub fn new(target: Target) -> Result<Self, String> {
        let tls = match &target.cacert {
            Some(authority) => Some(tls(authority, target.cert.as_deref().zip(target.key.as_deref()))?),
            None if target.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) => {
                return Err("an https endpoint needs --cacert".to_owned());
            }
            None => None,
        };
        Ok(Dialer { target, tls, next: Cell::new(0), token: RefCell::new(None) })
    }

    /// One more for the same target.
    pub fn another(&self) -> Result<Self, String> {
        Dialer::new(self.target.clone())
    }

    pub fn endpoints(&self) -> &[String] {
        &self.target.endpoints
    }

    /// A connection to the next endpoint, authenticated if there is a user.
    pub async fn connect(&self) -> Result<Client, String> {
        self.connect_with(Options::default()).await
    }

    pub async fn connect_with(&self, options: Options) -> Result<Client, String> {
        let endpoints = &self.target.endpoints;
        let endpoint = &endpoints[self.next.replace(self.next.get() + 1) % endpoints.len()];
        let address =
            endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address).trim_end_matches('/');
        let failed = |cause: &dyn std::fmt::Display| format!("{endpoint}: {cause}");
        let client = match &self.tls {
            None => Client::connect_with(address, options).await.map_err(|cause| failed(&cause))?,
            Some(tls) => {
                let socket = TcpStream::connect(address).await.map_err(|cause| failed(&cause))?;
                socket.set_nodelay(true).map_err(|cause| failed(&cause))?;
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_owned()).map_err(|cause| failed(&cause))?;
                let stream = tls.connect(name, socket).await.map_err(|cause| failed(&cause))?;
                Client::over(stream, Scheme::HTTPS, address, options).await.map_err(|cause| failed(&cause))?
            }
        };
        let Some(user) = &self.target.user else { return Ok(client) };
        if self.token.borrow().is_none() {
            let (name, password) = user.split_once(':').ok_or("--user is name:password")?;
            let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let token = client.call(&request).await.map_err(|cause| failed(&cause))?.token;
            *self.token.borrow_mut() = Some(token);
        }
        Ok(client.with_metadata("token", self.token.borrow().as_deref().unwrap_or_default()))
    }
}

fn tls(authority: &Path, own: Option<(&Path, &Path)>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots.add(certificate).map_err(|cause| format!("{}: {cause}", authority.display()))?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let pem = read(key)?;
            let parsed = PrivateKeyDer::from_pem_slice(&pem).map_err(|cause| format!("{}: {cause}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, parsed)
                .map_err(|cause| format!("{}: {cause}", certificate.display()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
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
    fs::read(path).map_err(|cause: io::Error| format!("{}: {cause}", path.display()))
}
