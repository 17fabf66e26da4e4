//! A whole server that is spoken to with TLS: what is served, who is let in, and what keeps it from starting. The
//! handshake's own rules are tested beside it.

mod server;

use std::{fs, sync::Arc};

use http::Request;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use server::{Server, certificates::Certificates, ended_well, free_address, names, refused, soon, users};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use urd::error;
use urd_client::{
    Client, Options, Scheme,
    authpb::{UserAddOptions, permission::Type},
    etcdserverpb::{AuthUserAddRequest, AuthUserDeleteRequest},
};

/// How clients call the server whose certificates these are.
trait Calls {
    fn connector(&self, with_own: bool, protocol: &[u8]) -> TlsConnector;
    async fn dial(&self, address: &str, with_own: bool, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>>;
    async fn client(&self, address: &str, with_own: bool) -> Result<Client, String>;
    async fn http(&self, address: &str, path: &str) -> String;
    async fn http_with(&self, address: &str, with_own: bool, method: &str, path: &str) -> String;
}

impl Calls for Certificates {
    /// A client that trusts the authority, with a certificate of its own or without.
    fn connector(&self, with_own: bool, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match with_own {
            false => builder.with_no_client_auth(),
            true => {
                let certificate = CertificateDer::from_pem_file(self.path("client.pem")).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path("client.key")).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    async fn dial(&self, address: &str, with_own: bool, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        self.connector(with_own, protocol).connect(name, TcpStream::connect(address).await?).await
    }

    async fn client(&self, address: &str, with_own: bool) -> Result<Client, String> {
        let stream = self.dial(address, with_own, b"h2").await.map_err(|cause| cause.to_string())?;
        let client = Client::over(stream, Scheme::HTTPS, address, Options::default()).await;
        let client = client.map_err(|cause| cause.to_string())?;
        // A client's certificate is refused after its own handshake is over.
        client.get("k").await.map_err(|cause| cause.to_string())?;
        Ok(client)
    }

    async fn http(&self, address: &str, path: &str) -> String {
        self.http_with(address, false, "GET", path).await
    }

    async fn http_with(&self, address: &str, with_own: bool, method: &str, path: &str) -> String {
        let mut stream = self.dial(address, with_own, b"http/1.1").await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        let request = format!("{head}Content-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

/// Listens plain and encrypted on one port, encrypted on another, and for metrics on a third.
#[tokio::test]
async fn everything_is_served_encrypted_and_plain_side_by_side() {
    let certificates = Certificates::make();
    let mut server = Server::prepare(&[]);
    let (encrypted, metrics) = (free_address(), free_address());
    let both = server.address.clone();
    server.add(format!("--listen-client-urls=http://{both},https://{both},https://{encrypted}"));
    server.add(format!("--listen-metrics-urls=https://{metrics}"));
    certificates.server_flags().into_iter().for_each(|flag| server.add(flag));
    server.restart().await;

    let plain = server.client().await;
    plain.put("k", "v").await.unwrap();
    for address in [&both, &encrypted] {
        let client = certificates.client(address, false).await.unwrap();
        let mut watcher = client.watch("k", "", 0).await.unwrap();
        // As large as several records and more than the first window.
        let value = vec![b'v'; 300_000];
        client.put("k", value.clone()).await.unwrap();
        let mut events = soon(watcher.next()).await.unwrap().events;
        assert_eq!(events.remove(0).kv.unwrap().value, value);
        assert_eq!(client.get("k").await.unwrap().kvs[0].value, value);
        let answer = certificates.http(address, "/health").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(r#"{"health":"true","reason":""}"#));
    }
    assert!(certificates.http(&metrics, "/metrics").await.contains("etcd_server_has_leader 1"));
    let mut stream = TcpStream::connect(&encrypted).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(soon(stream.read_to_end(&mut Vec::new())).await.unwrap_or(0), 0, "who speaks plainly is not answered");
    let mut stream = TcpStream::connect(&both).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    assert_eq!(soon(stream.read_to_end(&mut Vec::new())).await.unwrap_or(0), 0, "nor who speaks nonsense");
    let refused = certificates.dial(&both, false, b"grpc-exp").await.map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "an alert tells why: {refused}");
    assert!(ended_well(server.terminate()));
}

/// By a client of HTTP/2 that is not ours: a watch through the gateway, a call of gRPC and a probe on one connection.
#[tokio::test]
async fn http_and_grpc_share_a_connection() {
    let certificates = Certificates::make();
    let mut server = Server::prepare(&[]);
    let (plain, encrypted) = (server.address.clone(), free_address());
    server.add(format!("--listen-client-urls=http://{plain},https://{encrypted}"));
    certificates.server_flags().into_iter().for_each(|flag| server.add(flag));
    server.restart().await;
    let stream = certificates.dial(&encrypted, false, b"h2").await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let driven = tokio::spawn(connection);
    let mut begin = |method: &str, path: &str, kind: &str, body: Vec<u8>| {
        let builder = Request::builder().method(method).uri(format!("https://{encrypted}{path}"));
        let request = builder.header("content-type", kind).body(()).unwrap();
        let (answer, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(body.into(), true).unwrap();
        answer
    };
    let order = br#"{"create_request":{"key":"aw=="}}"#.to_vec();
    let mut watch = soon(begin("POST", "/v3/watch", "application/json", order)).await.unwrap().into_body();
    assert!(soon(watch.data()).await.unwrap().unwrap().starts_with(b"{\"result\":"));
    // Put "k" to "v".
    let message = b"\0\0\0\0\x06\x0a\x01k\x12\x01v".to_vec();
    let put = soon(begin("POST", "/etcdserverpb.KV/Put", "application/grpc", message)).await.unwrap();
    assert_eq!(put.headers()["content-type"], "application/grpc");
    let event = soon(watch.data()).await.unwrap().unwrap();
    assert!(event.windows(14).any(|text| text == b"\"value\":\"dg==\""), "{event:?}");
    let health = soon(begin("GET", "/health", "", Vec::new())).await.unwrap();
    assert_eq!((health.status().as_u16(), &health.headers()["content-length"]), (200, &"29".parse().unwrap()));
    // Larger than may be: refused, what is still to come is not wanted, and the connection goes on.
    let large = soon(begin("POST", "/v3/kv/put", "application/json", vec![b' '; 9 << 20])).await.unwrap();
    assert_eq!(large.status(), 429);
    let told = soon(large.into_body().data()).await.unwrap().unwrap();
    assert_eq!(told, r#"{"code":8,"message":"the body of the request is larger than 8388608 bytes"}"#);
    assert!(!driven.is_finished());
    let nearly = soon(begin("GET", "/health", "application/grpc", Vec::new())).await.unwrap();
    assert_eq!((nearly.status().as_u16(), &nearly.headers()["allow"]), (405, &"POST".parse().unwrap()));
}

#[tokio::test]
async fn a_certificate_is_demanded_and_the_server_outlives_who_has_none() {
    let certificates = Certificates::make();
    let mut server = Server::prepare(&[]);
    let (plain, encrypted) = (server.address.clone(), free_address());
    server.add(format!("--listen-client-urls=http://{plain},https://{encrypted}"));
    server.add(format!("--trusted-ca-file={}", certificates.path("ca.pem").display()));
    server.add("--client-cert-auth".to_owned());
    certificates.server_flags().into_iter().for_each(|flag| server.add(flag));
    server.restart().await;
    let client = certificates.client(&encrypted, true).await.unwrap();
    client.put("k", "v").await.unwrap();
    for _ in 0..20 {
        certificates.client(&encrypted, false).await.map(|_| ()).unwrap_err();
    }
    assert_eq!(client.get("k").await.unwrap().kvs[0].value, "v");
    server.says("rejected connection on client endpoint").await;
}

/// Who shows a certificate for a host has shown that it is that host, whatever else it is called.
#[tokio::test]
async fn hosts_are_asked_for_in_plain_only() {
    let certificates = Certificates::make();
    let mut server = Server::prepare(&["--host-whitelist=nobody"]);
    let (plain, encrypted) = (server.address.clone(), free_address());
    server.add(format!("--listen-client-urls=http://{plain},https://{encrypted}"));
    certificates.server_flags().into_iter().for_each(|flag| server.add(flag));
    server.restart().await;
    let answer = certificates.http(&encrypted, "/version").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let mut stream = TcpStream::connect(&plain).await.unwrap();
    let request = format!("GET /version HTTP/1.1\r\nHost: {plain}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

/// A server that demands certificates, with users: the one that is named as the client's certificate has no password.
async fn with_users(flag: Option<&str>) -> (Certificates, Server, String) {
    let certificates = Certificates::make();
    let mut server = Server::prepare(&[users::CHEAP]);
    let (plain, encrypted) = (server.address.clone(), free_address());
    server.add(format!("--listen-client-urls=http://{plain},https://{encrypted}"));
    server.add(format!("--trusted-ca-file={}", certificates.path("ca.pem").display()));
    flag.into_iter().for_each(|flag| server.add(flag.to_owned()));
    certificates.server_flags().into_iter().for_each(|flag| server.add(flag));
    server.restart().await;
    let anybody = server.client().await;
    let options = Some(UserAddOptions { no_password: true });
    anybody.call(&AuthUserAddRequest { name: "client".into(), options, ..Default::default() }).await.unwrap();
    anybody.add_role("client").await.unwrap();
    anybody.permit("client", Type::Readwrite, "mine", "").await.unwrap();
    anybody.grant_role("client", "client").await.unwrap();
    users::add(&anybody, "ann", &[(Type::Readwrite, "k", "")]).await;
    (certificates, server, encrypted)
}

#[tokio::test]
async fn a_certificate_names_a_user() {
    let (certificates, server, encrypted) = with_users(Some("--client-cert-auth")).await;
    let named = certificates.client(&encrypted, true).await.unwrap();
    let anybody = server.client().await;
    let root = users::enable(&anybody).await;
    named.put("mine", "v").await.unwrap();
    assert_eq!(named.get("mine").await.unwrap().kvs[0].value, "v");
    refused(named.put("k", "v").await, &error::PERMISSION_DENIED);
    let mut watcher = named.watch("mine", "", 0).await.unwrap();
    named.put("mine", "w").await.unwrap();
    assert_eq!(soon(watcher.next()).await.unwrap().events[0].kv.as_ref().unwrap().value, "w");
    refused(anybody.get("mine").await, &error::USER_EMPTY);

    // A token says more than a certificate, be it wrong.
    let ann = named.log_in("ann", "pw").await.unwrap();
    ann.put("k", "v").await.unwrap();
    refused(ann.get("mine").await, &error::PERMISSION_DENIED);
    refused(named.with_metadata("token", "nonsense").get("mine").await, &error::INVALID_AUTH_TOKEN);
    // Who hands on what others ask is not who asks.
    refused(named.with_metadata("grpcgateway-accept", "*/*").get("mine").await, &error::USER_EMPTY);

    let told = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
    let answer = certificates.http_with(&encrypted, true, "POST", "/v3/kv/range").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.ends_with(told), "{answer}");
    let answer = certificates.http_with(&encrypted, true, "GET", "/version").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    // As of now, too: what was permitted is permitted no longer.
    root.call(&AuthUserDeleteRequest { name: "client".into() }).await.unwrap();
    refused(named.get("mine").await, &error::PERMISSION_DENIED);
}

#[tokio::test]
async fn a_certificate_names_nobody_where_it_was_not_asked_to() {
    let (certificates, server, encrypted) = with_users(None).await;
    let shown = certificates.client(&encrypted, true).await.unwrap();
    certificates.client(&encrypted, false).await.map(|_| ()).unwrap_err();
    users::enable(&server.client().await).await;
    refused(shown.get("mine").await, &error::USER_EMPTY);
    let answer = certificates.http_with(&encrypted, true, "POST", "/v3/kv/range").await;
    assert!(!answer.contains("CommonName"), "{answer}");
}

#[tokio::test]
async fn a_certificate_is_made_once_where_none_is_given() {
    let mut server = Server::prepare(&["--auto-tls"]);
    let (plain, encrypted) = (server.address.clone(), free_address());
    server.add(format!("--listen-client-urls=http://{plain},https://{encrypted}"));
    server.restart().await;
    let folder = server.data_dir().join("fixtures").join("client");
    assert_eq!(names(&folder).unwrap(), ["cert.pem", "key.pem"]);
    let made = fs::read(folder.join("cert.pem")).unwrap();
    server.kill();
    server.restart().await;
    assert_eq!(fs::read(folder.join("cert.pem")).unwrap(), made);
    // The key that is spoken with is the one that was made.
    let mut stream = TcpStream::connect(&encrypted).await.unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, &mut stream).await.unwrap();
    let shown = &stream.get_ref().1.peer_certificates().unwrap()[0];
    assert_eq!(*shown, CertificateDer::from_pem_slice(&made).unwrap());
}

/// Trusts whom it meets, as clients of such a server are told to.
#[derive(Debug)]
struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_named_at_the_start() {
    let certificates = Certificates::make();
    let mut server = Server::prepare(&[]);
    server.add(format!("--listen-client-urls=https://{}", server.address));
    let [cert, _] = certificates.server_flags();
    server.add(cert);
    let missing = certificates.path("missing.key");
    server.add(format!("--key-file={}", missing.display()));
    server.spawn();
    assert_eq!(server.wait().code(), Some(1));
    let wanted = format!("open {}: no such file or directory", missing.display());
    assert!(server.log().contains(&wanted), "{}", server.log());
}
