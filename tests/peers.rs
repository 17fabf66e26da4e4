//! A whole server that is spoken to as other members speak to it: what it answers on its peer URLs, in plain, on a socket file
//! and within TLS, whom it lets in there, and what keeps it from starting. `tests/stock/peers.sh` compares more of the
//! answers with the reference's.

mod server;

use std::{fs, path::PathBuf, process::Output, sync::Arc};

use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use server::{Server, ended_well, free_address, names, soon, users};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use urd::proto::{
    etcdserverpb::{LeaseKeepAliveResponse, LeaseTimeToLiveRequest},
    leasepb::{LeaseInternalRequest, LeaseInternalResponse},
    raftpb::{Message, MessageType, Snapshot},
};
use urd_client::etcdserverpb::{
    AuthenticateRequest, LeaseGrantRequest, MemberAddRequest, MemberRemoveRequest, PutRequest,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

struct Answer {
    /// Status line and headers.
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request and reads until the server hangs up.
async fn ask_over<S>(mut stream: S, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    Answer { head: head.replace("\r\n", "\n"), body: answer[end + 4..].to_vec() }
}

async fn ask(server: &Server, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let stream = TcpStream::connect(server.peer_address()).await.unwrap();
    ask_over(stream, method, path, headers, body).await
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server, "GET", path, "", b"").await
}

/// What a member of the cluster says of itself.
async fn introduced(server: &Server) -> String {
    let cluster = get(server, "/members").await.header("X-Etcd-Cluster-Id").unwrap().to_owned();
    format!("X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {cluster}\r\n")
}

async fn member_id(server: &Server) -> u64 {
    server.client().await.status().await.unwrap().header.unwrap().member_id
}

#[tokio::test]
async fn members_are_told_of_members_versions_and_hashes() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("k", "v").await.unwrap();
    let version = get(&server, "/version").await;
    assert_eq!(version.text(), r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
    let members = get(&server, "/members").await;
    let id = member_id(&server).await;
    let (peer, here) = (server.peer_address(), &server.address);
    let wanted =
        format!(r#"[{{"id":{id},"peerURLs":["http://{peer}"],"name":"default","clientURLs":["http://{here}"]}}]"#)
            + "\n";
    assert_eq!((members.text(), members.header("Content-Type")), (&*wanted, Some("application/json")));
    let cluster = members.header("X-Etcd-Cluster-Id").unwrap().to_owned();
    assert_eq!(cluster, format!("{:x}", client.status().await.unwrap().header.unwrap().cluster_id));

    let hash = client.hash_kv(0).await.unwrap();
    let told = ask(&server, "GET", "/members/hashkv", &format!("X-Etcd-Cluster-ID: {cluster}\r\n"), b"{}").await;
    let wanted =
        format!(r#"{{"header":{{"revision":2}},"hash":{},"compact_revision":-1,"hash_revision":2}}"#, hash.hash);
    assert_eq!(told.text(), wanted);
    let of_the_future = ask(&server, "GET", "/members/hashkv", "", br#"{"revision":3}"#).await;
    assert_eq!((of_the_future.status(), of_the_future.text()), (400, "mvcc: required revision is a future revision\n"));
    let strange = ask(&server, "GET", "/members/hashkv", "X-Etcd-Cluster-ID: 1\r\n", b"{}").await;
    assert_eq!((strange.status(), strange.text()), (412, "cluster ID mismatch\n"));
    assert_eq!(get(&server, "/downgrade/enabled").await.text(), "false");
    // And nothing of what clients are served.
    for path in ["/health", "/metrics", "/v3/kv/range"] {
        assert_eq!(get(&server, path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn leases_are_renewed_and_told_of() {
    let server = Server::start_with(&["--shards=1"]).await;
    let client = server.client().await;
    client.call(&LeaseGrantRequest { id: 7, ttl: 5_000 }).await.unwrap();
    client.call(&PutRequest { key: b"k".to_vec().into(), lease: 7, ..Default::default() }).await.unwrap();
    let renewed = ask(&server, "POST", "/leases", "", b"\x08\x07").await;
    assert_eq!((renewed.status(), renewed.header("Content-Type")), (200, Some("application/protobuf")));
    let wanted = LeaseKeepAliveResponse { header: None, id: 7, ttl: 5_000 };
    assert_eq!(LeaseKeepAliveResponse::decode(&*renewed.body).unwrap(), wanted);
    let question = |id, keys| {
        let asked = LeaseTimeToLiveRequest { id, keys };
        LeaseInternalRequest { lease_time_to_live_request: Some(asked) }.encode_to_vec()
    };
    for keys in [false, true] {
        let told = ask(&server, "POST", "/leases/internal", "", &question(7, keys)).await;
        let told = LeaseInternalResponse::decode(&*told.body).unwrap().lease_time_to_live_response.unwrap();
        assert_eq!((told.id, told.granted_ttl, told.keys.len()), (7, 5_000, usize::from(keys)));
        assert!((4_900..=5_000).contains(&told.ttl), "{}", told.ttl);
    }
    for (path, body) in [("/leases", b"\x08\x08".to_vec()), ("/leases/internal", question(8, true))] {
        let unknown = ask(&server, "POST", path, "", &body).await;
        assert_eq!((unknown.status(), unknown.text()), (404, "lease not found\n"), "{path}");
    }
    // An answer longer than Go keeps before it sends has no length.
    for number in 0..300 {
        let key = format!("a key of the lease {number}").into_bytes().into();
        client.call(&PutRequest { key, lease: 7, ..Default::default() }).await.unwrap();
    }
    let long = ask(&server, "POST", "/leases/internal", "", &question(7, true)).await;
    assert_eq!(long.header("Transfer-Encoding"), Some("chunked"));
}

/// A body that does not come is waited for a while, and one that is too long is not read.
#[tokio::test]
async fn who_sends_slowly_or_too_much_is_cut_off() {
    let server = Server::start().await;
    let mut slow = TcpStream::connect(server.peer_address()).await.unwrap();
    slow.write_all(b"POST /leases HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
    let mut silent = TcpStream::connect(server.peer_address()).await.unwrap();
    silent.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(slow.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("error reading body\n"), "{answer}");
    soon(silent.read_to_string(&mut String::new())).await.unwrap();

    let large = ask(&server, "POST", "/leases", "", &vec![8; 64 * 1024 + 1]).await;
    assert_eq!(large.head.lines().next(), Some("HTTP/1.1 413 Request Entity Too Large"));
    let ours = introduced(&server).await;
    let mut stream = TcpStream::connect(server.peer_address()).await.unwrap();
    let head = format!("POST /raft HTTP/1.1\r\nHost: a\r\n{ours}Content-Length: 99999999999\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // It may hang up before all of this is sent.
    let _ = stream.write_all(&vec![0; 5 * 1024 * 1024]).await;
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert!(String::from_utf8_lossy(&answer).contains("error reading raft message"));
    assert_eq!(get(&server, "/members").await.status(), 200);
}

#[tokio::test]
async fn a_learner_that_is_not_there_is_not_promoted() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    let added = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: true };
    let id = client.call(&added).await.unwrap().member.unwrap().id;
    let promote = async |id: &str, headers: &str| {
        let answer = ask(&server, "POST", &format!("/members/promote/{id}"), headers, b"").await;
        (answer.status(), answer.text().to_owned())
    };
    let not_ready = "etcdserver: can only promote a learner member which is in sync with leader\n".to_owned();
    assert_eq!(promote(&id.to_string(), "").await, (412, not_ready.clone()));
    assert_eq!(promote("17", "").await, (404, "membership: ID not found\n".into()));
    let own = member_id(&server).await.to_string();
    assert_eq!(promote(&own, "").await, (412, "membership: can only promote a learner member\n".into()));
    assert_eq!(promote("abc", "").await, (404, "member abc not found in cluster\n".into()));

    // With users, for who may.
    let root = users::enable(&client).await;
    assert_eq!(promote(&id.to_string(), "").await, (500, r#"{"message":"Internal Server Error"}"#.into()));
    let proof = AuthenticateRequest { name: "root".into(), password: "root".into() };
    let token = client.call(&proof).await.unwrap().token;
    assert_eq!(promote(&id.to_string(), &format!("Authorization: {token}\r\n")).await, (412, not_ready));

    // Who was removed is told so, for good.
    root.call(&MemberRemoveRequest { id }).await.unwrap();
    let ours = introduced(&server).await;
    let gone = ask(&server, "GET", &format!("/raft/stream/message/{id:x}"), &ours, b"").await;
    assert_eq!((gone.status(), gone.text()), (410, "removed member\n"));
    assert_eq!(gone.header("X-Server-Version"), Some("3.7.3"));
}

/// A message that is for this member is taken, and one that is for another ends the connection, as etcd's does.
#[tokio::test]
async fn messages_are_for_this_member_or_not() {
    let server = Server::start().await;
    let ours = introduced(&server).await;
    let before = server.client().await.status().await.unwrap();
    let id = before.header.unwrap().member_id;
    // Of a term before its own, or it would follow: raft believes whom it does not know, etcd's as well.
    let to = |to| Message { to: Some(to), from: Some(5), term: Some(1), ..Default::default() };
    let beat = |whom| Message { r#type: Some(MessageType::MsgHeartbeat as i32), ..to(whom) }.encode_to_vec();
    assert_eq!(ask(&server, "POST", "/raft", &ours, &beat(id)).await.status(), 204);
    let other = ask(&server, "POST", "/raft", &ours, &beat(id + 1)).await;
    assert_eq!((other.status(), other.header("Transfer-Encoding")), (500, Some("chunked")));
    assert_eq!(other.text().to_lowercase(), "1e\r\nerror processing raft message\n\r\n", "and no end");
    let unreadable = ask(&server, "POST", "/raft", &ours, b"x").await;
    assert_eq!((unreadable.status(), unreadable.text()), (400, "error unmarshalling raft message\n"));

    let snapshot = |whom, kind: MessageType| {
        let message = Message { r#type: Some(kind as i32), snapshot: Some(Snapshot::default()), ..to(whom) };
        let message = message.encode_to_vec();
        [&(message.len() as u64).to_be_bytes()[..], &message, &[7; 100_000]].concat()
    };
    let taken = ask(&server, "POST", "/raft/snapshot", &ours, &snapshot(id, MessageType::MsgSnap)).await;
    assert_eq!(taken.status(), 204);
    let wrong = ask(&server, "POST", "/raft/snapshot", &ours, &snapshot(id, MessageType::MsgApp)).await;
    assert_eq!((wrong.status(), wrong.text()), (400, "wrong raft message type\n"));
    // It leads as it did.
    server.client().await.put("k", "v").await.unwrap();
    let after = server.client().await.status().await.unwrap();
    assert_eq!((after.raft_term, after.leader), (before.raft_term, before.leader));
}

#[tokio::test]
async fn members_come_in_by_a_socket_file() {
    let dir = TempDir::new().unwrap();
    let (plain, called_secure) = (dir.path().join("a"), dir.path().join("b"));
    let urls = format!("--listen-peer-urls=unix://{},unixs://{}", plain.display(), called_secure.display());
    let mut server = Server::start_with(&[&urls]).await;
    for path in [&plain, &called_secure] {
        let stream = UnixStream::connect(path).await.unwrap();
        let answer = ask_over(stream, "GET", "/version", "", b"").await;
        assert_eq!(answer.status(), 200, "{}", path.display());
    }
    assert!(ended_well(server.terminate()));
}

fn output_of(server: &Server, flags: &[String]) -> Output {
    server.command().args(flags).output().unwrap()
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let told = |flags: &[String]| {
        let output = output_of(&Server::prepare(&[]), flags);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = told(&[format!("--listen-peer-urls=http://{address}")]);
    assert!(text.contains(&format!("listen tcp {address}: bind: address already in use")), "{text}");
    let free = free_address();
    let text = told(&[format!("--listen-peer-urls=https://{free}")]);
    let wanted = format!("cannot listen on TLS for {free}: KeyFile and CertFile are not presented");
    assert!(text.contains(&wanted), "{text}");
    // For clients a port may be given twice; for members not.
    let text = told(&[format!("--listen-peer-urls=http://{free},https://{free}"), "--peer-auto-tls".into()]);
    assert!(text.contains(&format!("listen tcp {free}: bind: address already in use")), "{text}");
    let text = told(&["--peer-cert-file=/nowhere.pem".into(), "--peer-key-file=/nowhere.key".into()]);
    assert!(text.contains("open /nowhere.pem: no such file or directory"), "{text}");
}

/// An authority, and what it signs.
struct Authority {
    dir: TempDir,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let authority = Authority { dir: TempDir::new().unwrap(), params, key: KeyPair::generate().unwrap() };
        authority.write("ca.pem", authority.params.self_signed(&authority.key).unwrap().pem());
        authority.sign("server", &["127.0.0.1"], 1);
        authority
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Certificate and key of a common name, in files that are called as it is.
    fn sign(&self, name: &str, hosts: &[&str], serial: u64) {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        self.write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        self.write(&format!("{name}.key"), key.serialize_pem());
    }

    fn revoke(&self, serial: u64) {
        let now = OffsetDateTime::now_utc();
        let serial_number = SerialNumber::from(serial);
        let revoked =
            RevokedCertParams { serial_number, revocation_time: now, reason_code: None, invalidity_date: None };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap();
        self.write("list", list.der());
    }

    fn flag(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.path(file).display())
    }

    /// A server whose peer URL is encrypted, and lets in whom the authority knows.
    async fn server(&self, more: &[&str]) -> (Server, String) {
        let demanding = self.flag("peer-trusted-ca-file", "ca.pem");
        self.server_with(&[&[&demanding, "--peer-client-cert-auth"], more].concat()).await
    }

    async fn server_with(&self, more: &[&str]) -> (Server, String) {
        let mut server = Server::prepare(more);
        let address = free_address();
        server.add(format!("--listen-peer-urls=https://{address}"));
        server.add(self.flag("peer-cert-file", "server.pem"));
        server.add(self.flag("peer-key-file", "server.key"));
        server.restart().await;
        (server, address)
    }

    /// Asks with the certificate of that name, or none. Err: there was no answer.
    async fn ask(&self, address: &str, own: Option<&str>) -> Result<Answer, String> {
        self.ask_with(address, own, &[&TLS13, &TLS12]).await
    }

    async fn ask_with(
        &self,
        address: &str,
        own: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Answer, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let mut stream = stream.map_err(|cause| cause.to_string())?;
        let request = b"GET /members HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.map_err(|cause| cause.to_string())?;
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.map_err(|cause| cause.to_string())?;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        Ok(Answer { head: head.replace("\r\n", "\n"), body: body.as_bytes().to_vec() })
    }

    async fn lets_in(&self, address: &str, own: Option<&str>) -> bool {
        self.ask(address, own).await.is_ok_and(|answer| answer.status() == 200)
    }
}

#[tokio::test]
async fn a_certificate_is_demanded_where_it_is_asked_for() {
    let authority = Authority::new();
    let (server, address) = authority.server_with(&[]).await;
    assert!(authority.lets_in(&address, None).await, "nobody need be anybody");
    drop(server);
    let (server, address) = authority.server(&[]).await;
    assert!(authority.lets_in(&address, Some("server")).await);
    assert!(!authority.lets_in(&address, None).await);
    server.says("rejected connection on peer endpoint").await;
    // Nor who speaks plainly.
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET /members HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(soon(stream.read_to_end(&mut Vec::new())).await.unwrap_or(0), 0);
    // Nor a stranger.
    let stranger = Authority::new();
    for name in ["server.pem", "server.key"] {
        fs::copy(stranger.path(name), authority.path(&format!("stranger{}", &name[6..]))).unwrap();
    }
    assert!(!authority.lets_in(&address, Some("stranger")).await);
    // Clients need none.
    server.client().await.put("k", "v").await.unwrap();
}

/// `localhost` is in every hosts file.
#[tokio::test]
async fn a_certificate_is_of_the_address_that_it_comes_from() {
    let authority = Authority::new();
    authority.sign("elsewhere", &["10.1.2.3"], 2);
    authority.sign("named", &["localhost"], 3);
    authority.sign("misnamed", &["nobody.invalid"], 4);
    let (server, address) = authority.server(&[]).await;
    for (own, wanted) in [("server", true), ("named", true), ("elsewhere", false), ("misnamed", false)] {
        assert_eq!(authority.lets_in(&address, Some(own)).await, wanted, "{own}");
    }
    for told in [
        "x509: certificate is valid for 10.1.2.3, not 127.0.0.1",
        r#"tls: \"127.0.0.1\" does not match any of DNSNames [\"nobody.invalid\"]"#,
    ] {
        server.says(told).await;
    }
    drop(server);
    let (_server, address) = authority.server(&["--peer-skip-client-san-verification"]).await;
    for own in ["server", "elsewhere", "misnamed"] {
        assert!(authority.lets_in(&address, Some(own)).await, "{own}");
    }
}

/// What scrapes metrics with a certificate is looked at in the same way; clients are not.
#[tokio::test]
async fn so_is_the_certificate_of_who_wants_metrics() {
    let authority = Authority::new();
    authority.sign("elsewhere", &["10.1.2.3"], 2);
    let mut server = Server::prepare(&[]);
    let (metrics, clients) = (free_address(), free_address());
    server.add(format!("--listen-metrics-urls=https://{metrics}"));
    server.add(format!("--listen-client-urls=http://{},https://{clients}", server.address));
    for (flag, file) in [("cert-file", "server.pem"), ("key-file", "server.key"), ("trusted-ca-file", "ca.pem")] {
        server.add(authority.flag(flag, file));
    }
    server.restart().await;
    // Nobody is a member of anything there, but is answered.
    for (address, own, wanted) in
        [(&metrics, "server", true), (&metrics, "elsewhere", false), (&clients, "elsewhere", true)]
    {
        assert_eq!(authority.ask(address, Some(own)).await.is_ok(), wanted, "{own}");
    }
}

#[tokio::test]
async fn names_and_revocations_narrow_it() {
    let authority = Authority::new();
    authority.sign("one", &["127.0.0.1"], 11);
    authority.sign("two", &["127.0.0.1", "two.example.org"], 12);
    authority.revoke(99);
    for (flag, wanted) in [
        ("--peer-cert-allowed-cn=one,three", [true, false]),
        ("--peer-cert-allowed-hostname=two.example.org", [false, true]),
    ] {
        let (_server, address) = authority.server(&[flag, "--peer-skip-client-san-verification"]).await;
        for (own, wanted) in ["one", "two"].into_iter().zip(wanted) {
            assert_eq!(authority.lets_in(&address, Some(own)).await, wanted, "{flag} {own}");
        }
    }
    let (server, address) = authority.server(&[&authority.flag("peer-crl-file", "list")]).await;
    assert!(authority.lets_in(&address, Some("one")).await);
    authority.revoke(11);
    assert!(!authority.lets_in(&address, Some("one")).await, "as of now");
    assert!(authority.lets_in(&address, Some("server")).await);
    server.says("transport: certificate serial 0b revoked").await;
}

#[tokio::test]
async fn versions_are_as_set_and_certificates_are_renewed() {
    let authority = Authority::new();
    let (_server, address) = authority.server_with(&["--tls-min-version=TLS1.3"]).await;
    let speaks = async |version| authority.ask_with(&address, None, &[version]).await.is_ok();
    assert_eq!((speaks(&TLS12).await, speaks(&TLS13).await), (false, true));
    // The next handshake shows what is in the files by then.
    authority.sign("server", &["10.9.9.9"], 7);
    let failure = authority.ask(&address, None).await.map(|_| ()).unwrap_err();
    assert!(failure.contains("not valid for name"), "{failure}");
    authority.sign("server", &["127.0.0.1"], 8);
    assert!(authority.lets_in(&address, None).await);
}

#[tokio::test]
async fn a_certificate_is_made_where_none_is_given() {
    let mut server = Server::prepare(&["--peer-auto-tls"]);
    let address = free_address();
    server.add(format!("--listen-peer-urls=https://{address}"));
    server.restart().await;
    let folder = server.data_dir().join("fixtures").join("peer");
    assert_eq!(names(&folder).unwrap(), ["cert.pem", "key.pem"]);
    let made = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
    let (_, parsed) = X509Certificate::from_der(&made).unwrap();
    let hosts = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(hosts.value.general_names, [GeneralName::IPAddress(&[127, 0, 0, 1])]);
    // It is shown: of itself, so that a client which demands more than that turns away.
    let authority = Authority::new();
    fs::copy(folder.join("cert.pem"), authority.path("ca.pem")).unwrap();
    let failure = authority.ask(&address, None).await.map(|_| ()).unwrap_err();
    assert!(failure.contains("CaUsedAsEndEntity"), "{failure}");
}
