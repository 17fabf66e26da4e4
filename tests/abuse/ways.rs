//! The ways in that take HTTP/2, and what is needed to go them.

use std::{fmt, fs, net::TcpStream, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tempfile::TempDir;
use urd_client::raw::RawConnection;

use crate::server::{PATIENCE, Server, free_address};

/// One way in.
#[derive(Clone)]
pub struct Way {
    name: &'static str,
    pub address: String,
    tls: Option<Arc<ClientConfig>>,
    /// The server looks at its files in each handshake.
    _authority: Option<Arc<Authority>>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Way {
    pub fn plain(name: &'static str, address: &str) -> Self {
        Way { name, address: address.to_owned(), tls: None, _authority: None }
    }

    pub fn tls(name: &'static str, address: &str, config: Arc<ClientConfig>) -> Self {
        Way { name, address: address.to_owned(), tls: Some(config), _authority: None }
    }

    fn kept(self, authority: Authority) -> Self {
        Way { _authority: Some(Arc::new(authority)), ..self }
    }

    /// A connection on which nothing has been said, but for a handshake.
    pub fn open(&self) -> RawConnection {
        match &self.tls {
            None => RawConnection::open(&self.address, PATIENCE).expect("the server takes a connection"),
            Some(config) => RawConnection::over(secured(&self.address, config).expect("the server shakes hands")),
        }
    }
}

/// An encrypted connection, with its handshake behind it.
pub fn secured(address: &str, config: &Arc<ClientConfig>) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
    let connection = ClientConnection::new(config.clone(), name).expect("a client");
    let mut stream = StreamOwned::new(connection, socket);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

/// An authority, and what it has signed.
pub struct Authority {
    pub dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// With a server's certificate for 127.0.0.1 in `server.pem` and `server.key`, its own in `ca.pem`.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let own = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), own.pem()).unwrap();
        let certificate = own.der().clone();
        let authority = Authority { dir, issuer: Issuer::new(params, key), certificate };
        let (server, key) = authority.sign("server", |_| {});
        fs::write(authority.dir.path().join("server.pem"), server.pem()).unwrap();
        fs::write(authority.dir.path().join("server.key"), key.serialize_pem()).unwrap();
        authority
    }

    pub fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub fn flags(&self) -> [String; 2] {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        [format!("--cert-file={}", path("server.pem")), format!("--key-file={}", path("server.key"))]
    }

    /// Of a client that trusts it, and shows this chain.
    pub fn client(&self, own: Option<(Vec<CertificateDer<'static>>, KeyPair)>, protocol: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.into()];
        Arc::new(config)
    }
}

/// A server, and the ways in that take HTTP/2.
pub async fn start() -> (Server, [Way; 2]) {
    let authority = Authority::new();
    let (server, encrypted) = start_guarded(&authority, &[]).await;
    let tls = Way::tls("within TLS", &encrypted, authority.client(None, "h2"));
    let ways = [Way::plain("plain", &server.address), tls.kept(authority)];
    (server, ways)
}

/// The same for HTTP/1.1: clients', plain and encrypted, that for metrics, members'.
pub async fn start_http1() -> (Server, [Way; 4]) {
    let authority = Authority::new();
    let metrics = free_address();
    let (server, encrypted) = start_guarded(&authority, &[&format!("--listen-metrics-urls=http://{metrics}")]).await;
    let ways = [
        Way::plain("plain", &server.address),
        Way::tls("within TLS", &encrypted, authority.client(None, "http/1.1")).kept(authority),
        Way::plain("for metrics", &metrics),
        Way::plain("of members", server.peer_address()),
    ];
    (server, ways)
}

/// One that takes plain connections at its address and encrypted ones at another.
pub async fn start_guarded(authority: &Authority, more: &[&str]) -> (Server, String) {
    let mut server = Server::prepare(more);
    let encrypted = free_address();
    server.add(format!("--listen-client-urls=http://{},https://{encrypted}", server.address));
    authority.flags().into_iter().for_each(|flag| server.add(flag));
    server.restart().await;
    (server, encrypted)
}
