//! Both ends of a handshake in one task, over a pipe.

use std::{fs, path::PathBuf};

use futures_util::future::join;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use time::{Duration as Span, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsConnector, client};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

static BOTH: [&rustls::SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
static ONLY_12: [&rustls::SupportedProtocolVersion; 1] = [&version::TLS12];
static ONLY_13: [&rustls::SupportedProtocolVersion; 1] = [&version::TLS13];

/// An authority, and a folder for what it signs.
struct Authority {
    dir: TempDir,
    params: CertificateParams,
    key: KeyPair,
}

/// Certificate and key as PEM.
struct Pair {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = Authority { dir: TempDir::new().unwrap(), params, key: KeyPair::generate().unwrap() };
        let cert = authority.params.self_signed(&authority.key).unwrap();
        authority.write("ca.pem", cert.pem());
        authority
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn sign(&self, hosts: &[&str], common_name: &str, serial: u64) -> Pair {
        let mut params = CertificateParams::new(hosts.iter().map(|host| host.to_string()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// A list of revoked serial numbers.
    fn revoke(&self, serials: &[u64]) -> rcgen::CertificateRevocationList {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: now,
            next_update: now + Span::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&Issuer::from_params(&self.params, &self.key))
        .unwrap()
    }

    /// What a server has that shows a certificate of `localhost`.
    fn server_files(&self) -> Files {
        let pair = self.sign(&["localhost", "127.0.0.1"], "server", 1);
        Files { cert: self.write("server.pem", pair.cert), key: self.write("server.key", pair.key), ..Files::default() }
    }

    fn client(&self) -> Client {
        Client { roots: self.ca(), pair: None, versions: &BOTH, protocols: &[b"h2"] }
    }
}

type Protocols = &'static [&'static [u8]];

struct Client {
    roots: PathBuf,
    pair: Option<Pair>,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    protocols: Protocols,
}

impl Client {
    fn with(self, pair: Pair) -> Self {
        Client { pair: Some(pair), ..self }
    }

    fn config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.roots).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some(Pair { cert, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }
}

type ClientStream = client::TlsStream<DuplexStream>;

/// A handshake and an echoed word. Err: what the guard says.
fn meet(guard: &Guard, config: Arc<ClientConfig>) -> Result<ClientStream, String> {
    meet_from(guard, config, None)
}

/// The same for a client that comes from an address, where its certificate has to be of that.
fn meet_from(guard: &Guard, config: Arc<ClientConfig>, from: Option<&str>) -> Result<ClientStream, String> {
    let from = from.map(|from| from.parse().unwrap());
    runtime::run(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from("localhost").unwrap();
        let serve = async {
            let mut stream = guard.admit(far, from).await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.map_err(|cause| cause.to_string())?;
            stream.write_all(&word).await.unwrap();
            stream.flush().await.unwrap();
            Ok(stream)
        };
        let call = async {
            let mut stream = TlsConnector::from(config).connect(name, near).await.map_err(|cause| cause.to_string())?;
            stream.write_all(b"ping").await.map_err(|cause| cause.to_string())?;
            stream.flush().await.map_err(|cause| cause.to_string())?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.map_err(|cause| cause.to_string())?;
            assert_eq!(&word, b"ping");
            Ok::<_, String>(stream)
        };
        let (served, called) = join(serve, call).await;
        served.and(called)
    })
}

fn guard(files: &Files) -> Guard {
    Guard::new(&Tls::default(), files).unwrap()
}

#[test]
fn both_versions_and_protocols_are_spoken() {
    let authority = Authority::new();
    let guard = guard(&authority.server_files());
    let versions: [(&'static [_], _); 2] = [(&ONLY_12, ProtocolVersion::TLSv1_2), (&ONLY_13, ProtocolVersion::TLSv1_3)];
    for (versions, told) in versions {
        let protocols: [(Protocols, Option<&[u8]>); 4] = [
            (&[b"h2"], Some(b"h2")),
            (&[b"http/1.1", b"h2"], Some(b"h2")),
            (&[b"http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ];
        for (protocols, chosen) in protocols {
            let client = Client { versions, protocols, ..authority.client() };
            let stream = meet(&guard, client.config()).unwrap();
            let (_, session) = stream.get_ref();
            assert_eq!((session.protocol_version(), session.alpn_protocol()), (Some(told), chosen));
        }
    }
    let client = Client { protocols: &[b"grpc-exp"], ..authority.client() };
    assert!(meet(&guard, client.config()).is_err(), "a protocol that is not spoken");
}

#[test]
fn versions_and_suites_are_as_set() {
    let authority = Authority::new();
    let files = authority.server_files();
    let only = |min, max| Guard::new(&Tls { version_min: min, version_max: max, ..Tls::default() }, &files).unwrap();
    let speaks = |guard: &Guard, versions| meet(guard, Client { versions, ..authority.client() }.config()).is_ok();
    let newest = only(Version::Tls13, None);
    assert!(speaks(&newest, &ONLY_13) && !speaks(&newest, &ONLY_12));
    let oldest = only(Version::Tls12, Some(Version::Tls12));
    assert!(!speaks(&oldest, &ONLY_13) && speaks(&oldest, &ONLY_12));

    let suites = vec!["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"];
    let guard = Guard::new(&Tls { suites, ..Tls::default() }, &files).unwrap();
    let stream = meet(&guard, Client { versions: &ONLY_12, ..authority.client() }.config()).unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(format!("{suite:?}"), "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
    assert!(speaks(&guard, &ONLY_13), "the suites of TLS 1.3 are not chosen");
}

#[test]
fn a_renewed_certificate_is_shown_and_a_broken_one_only_until_it_is_mended() {
    let authority = Authority::new();
    let files = authority.server_files();
    let guard = guard(&files);
    let shown = || {
        let stream = meet(&guard, authority.client().config())?;
        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
        Ok::<_, String>(parsed.serial.to_string().parse::<u64>().unwrap())
    };
    assert_eq!(shown(), Ok(1));
    let renewed = authority.sign(&["localhost"], "server", 2);
    authority.write("server.pem", &renewed.cert);
    shown().expect_err("the key is still the old one's");
    authority.write("server.key", &renewed.key);
    assert_eq!(shown(), Ok(2));
    fs::remove_file(&files.key).unwrap();
    shown().expect_err("there is no key");
    authority.write("server.key", &renewed.key);
    assert_eq!(shown(), Ok(2));
}

#[test]
fn what_is_wrong_with_the_files_is_told_at_the_start() {
    let authority = Authority::new();
    let files = authority.server_files();
    let told = |files: Files| Guard::new(&Tls::default(), &files).map(|_| ()).unwrap_err();
    let nowhere = authority.dir.path().join("nowhere");
    let error = told(Files { cert: nowhere.clone(), ..files.clone() });
    assert_eq!(error, format!("open {}: no such file or directory", nowhere.display()));
    let error = told(Files { cert: authority.write("text", "words"), ..files.clone() });
    assert!(error.ends_with("tls: failed to find any PEM data in certificate input"), "{error}");
    let error = told(Files { key: authority.write("other", authority.sign(&[], "x", 3).key), ..files.clone() });
    assert!(error.starts_with("tls: private key does not match public key"), "{error}");
    let error = told(Files { trusted_ca: authority.write("empty", ""), ..files.clone() });
    assert!(error.ends_with("it holds no certificate of an authority"), "{error}");
    told(Files { client_cert: nowhere.clone(), client_key: nowhere, ..files });
}

#[test]
fn a_demanded_certificate_has_to_be_genuine() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let guard = guard(&Files { trusted_ca: authority.ca(), ..authority.server_files() });
    for versions in [&ONLY_12[..], &ONLY_13] {
        let client = || Client { versions, ..authority.client() };
        meet(&guard, client().config()).map(|_| ()).expect_err("none was shown");
        meet(&guard, client().with(stranger.sign(&[], "a", 5)).config()).map(|_| ()).expect_err("another's");
        meet(&guard, client().with(authority.sign(&[], "a", 5)).config()).unwrap();
    }
}

/// As with Go: who is among the trusted is trusted.
#[test]
fn a_certificate_that_is_trusted_itself_is_let_in() {
    let authority = Authority::new();
    let (cert, key) = made::make_certificate(&authority.dir.path().join("made"), &["a".into()], 1).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = KeyPair::generate().unwrap();
    let own = Pair { cert: params.self_signed(&own).unwrap().pem(), key: own.serialize_pem() };
    let both = fs::read_to_string(&cert).unwrap() + &own.cert;
    let guard = guard(&Files { trusted_ca: authority.write("trusted", both), ..authority.server_files() });
    meet(&guard, authority.client().with(own).config()).unwrap();
    let servers_only = Pair { cert: fs::read_to_string(cert).unwrap(), key: fs::read_to_string(key).unwrap() };
    let error = meet(&guard, authority.client().with(servers_only).config()).map(|_| ());
    error.expect_err("it may be a server's only");
}

#[test]
fn names_of_clients_may_be_chosen() {
    let authority = Authority::new();
    let files = Files { trusted_ca: authority.ca(), ..authority.server_files() };
    let is_let_in = |guard: &Guard, hosts: &[&str], name: &str| match meet(
        guard,
        authority.client().with(authority.sign(hosts, name, 7)).config(),
    ) {
        Ok(_) => true,
        Err(cause) => {
            assert_eq!(cause, "client certificate authentication failed");
            false
        }
    };
    let by_name = guard(&Files { allowed_common_names: vec!["a".into(), "b".into()], ..files.clone() });
    assert!(is_let_in(&by_name, &[], "b") && !is_let_in(&by_name, &["b"], "c"));
    let hosts = vec!["a.example".to_owned(), "10.0.0.1".to_owned(), "x.y.example".to_owned()];
    let by_host = guard(&Files { allowed_hostnames: hosts, ..files });
    assert!(is_let_in(&by_host, &["a.example"], "x") && is_let_in(&by_host, &["10.0.0.1"], "x"));
    assert!(is_let_in(&by_host, &["*.y.example"], "x"));
    assert!(!is_let_in(&by_host, &["b.example", "10.0.0.2"], "a.example"), "a common name is no host's");
}

#[test]
fn a_revoked_certificate_is_refused_even_where_a_session_is_resumed() {
    let authority = Authority::new();
    let list = authority.write("crl", authority.revoke(&[]).der());
    let guard = guard(&Files { trusted_ca: authority.ca(), crl: list.clone(), ..authority.server_files() });
    let config = authority.client().with(authority.sign(&[], "a", 0xfe)).config();
    let resumed = |stream: ClientStream| stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    assert!(!resumed(meet(&guard, config.clone()).unwrap()));
    assert!(resumed(meet(&guard, config.clone()).unwrap()), "a ticket is good for another session");
    for revoked in [authority.revoke(&[3, 0xfe]).der().to_vec(), authority.revoke(&[0xfe]).pem().unwrap().into_bytes()]
    {
        fs::write(&list, revoked).unwrap();
        let error = meet(&guard, config.clone()).map(|_| ()).unwrap_err();
        assert_eq!(error, "transport: certificate serial fe revoked");
    }
    fs::write(&list, "no list").unwrap();
    let error = meet(&guard, config.clone()).map(|_| ()).unwrap_err();
    assert!(error.ends_with("x509: malformed crl"), "{error}");
    fs::write(&list, authority.revoke(&[3]).der()).unwrap();
    meet(&guard, config).unwrap();
}

#[test]
fn a_certificate_is_made_once_and_serves() {
    use std::os::unix::fs::PermissionsExt;

    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("fixtures").join("client");
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let (cert, key) = make_certificate(&folder, &hosts, 2).unwrap();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let der = CertificateDer::from_pem_file(&cert).unwrap();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let valid = parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
    assert_eq!(valid, 2 * 365 * 24 * 60 * 60);
    assert_eq!(parsed.subject().to_string(), "O=etcd");
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
    assert_eq!(parsed.public_key().parsed().unwrap().key_size(), 528, "P-521 in whole bytes");

    let again = make_certificate(&folder, &hosts, 2).unwrap();
    assert_eq!(again, (cert.clone(), key.clone()));
    assert_eq!(CertificateDer::from_pem_file(&cert).unwrap(), der);

    guard(&Files { cert, key, ..Files::default() });
    make_certificate(&dir.path().join("other"), &["no host at all".into(), "ключ".into()], 1).unwrap_err();
}

#[test]
fn who_says_nothing_is_given_up() {
    let authority = Authority::new();
    let guard = guard(&authority.server_files());
    runtime::run(async {
        let (_near, far) = tokio::io::duplex(64);
        let waited = runtime::timeout(Duration::from_millis(30), guard.admit(far, None)).await;
        assert!(waited.is_none(), "the handshake has its time");
        let (near, far) = tokio::io::duplex(64);
        drop(near);
        guard.admit(far, None).await.map(|_| ()).unwrap_err();
    });
}

/// Either its addresses or its names, and one of several will do. No DNS: `localhost` is in every hosts file, what ends
/// with `.invalid` nowhere.
#[test]
fn a_certificate_is_of_the_address_that_it_comes_from() {
    let authority = Authority::new();
    let files = Files { trusted_ca: authority.ca(), ..authority.server_files() };
    let guard = Guard::for_peers(&Tls::default(), &files).unwrap();
    let come = |hosts: &[&str], from| {
        let client = Client { protocols: &[], ..authority.client() }.with(authority.sign(hosts, "c", 7));
        meet_from(&guard, client.config(), Some(from)).map(drop)
    };
    for (hosts, from) in [
        (&["127.0.0.1"][..], "127.0.0.1"),
        (&["127.0.0.1"], "::ffff:127.0.0.1"),
        (&["10.1.2.3", "10.1.2.4"], "10.1.2.4"),
        (&["fd00::1"], "fd00::1"),
        (&["localhost"], "127.0.0.1"),
        (&["nobody.invalid", "localhost"], "127.0.0.1"),
        (&["10.1.2.3", "localhost"], "127.0.0.1"),
        (&[], "127.0.0.1"),
    ] {
        assert_eq!(come(hosts, from), Ok(()), "{hosts:?} {from}");
    }
    for (hosts, told) in [
        (&["10.1.2.3"][..], "x509: certificate is valid for 10.1.2.3, not 127.0.0.1"),
        (&["10.1.2.3", "fd00::1"], "x509: certificate is valid for 10.1.2.3, fd00::1, not 127.0.0.1"),
        (
            &["a.invalid", "10.1.2.3", "b.invalid"],
            "tls: \"127.0.0.1\" does not match any of DNSNames [\"a.invalid\" \"b.invalid\"] (lookup b.invalid: no such host)",
        ),
        (&["*.invalid"], "tls: \"127.0.0.1\" does not match any of DNSNames [\"*.invalid\"]"),
    ] {
        assert_eq!(come(hosts, "127.0.0.1"), Err(told.to_owned()), "{hosts:?}");
    }
}

#[test]
fn members_speak_http_1_within() {
    let authority = Authority::new();
    let guard = Guard::for_peers(&Tls::default(), &authority.server_files()).unwrap();
    let spoken = |protocols| meet(&guard, Client { protocols, ..authority.client() }.config());
    for (protocols, chosen) in [(&[][..], None), (&[b"h2", b"http/1.1"], Some(&b"http/1.1"[..]))] as [(Protocols, _); 2]
    {
        assert_eq!(spoken(protocols).unwrap().get_ref().1.alpn_protocol(), chosen);
    }
    assert!(spoken(&[b"h2"]).is_err());
}
