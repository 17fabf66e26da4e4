//! The built harness against the reference server: what needs a real etcd, so that it runs where one has been built
//! (URD_BENCH_ETCD names it; .ci/run does).

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use urd_client::{
    Client,
    etcdserverpb::{
        AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest, AuthRoleAddResponse, AuthUserAddRequest,
        AuthUserAddResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    },
};

fn etcd() -> PathBuf {
    env::var_os("URD_BENCH_ETCD").expect("URD_BENCH_ETCD names the reference server").into()
}

fn bench(words: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_urd-bench")).args(words).output().expect("the harness can be run");
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

/// A reference server on fresh data, until dropped.
struct Reference {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

/// Of a port that nobody listens on, and that the system gives to no connection: one that calls the port before anybody listens
/// there may otherwise be given it itself, and find that it is answered.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 4000;
    let address = |_| format!("127.0.0.1:{}", 20_000 + (first + NEXT.fetch_add(1, Relaxed)) % 8000);
    (0..8000).map(address).find(|address| TcpListener::bind(address).is_ok()).expect("a port is free")
}

impl Reference {
    /// `flags` may name files in the folder that is made.
    fn start(flags: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = flags(dir.path());
        let [address, peer] = [free_address(), free_address()];
        let scheme = if flags.is_empty() { "http" } else { "https" };
        let child = Command::new(etcd())
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .arg(format!("--listen-client-urls={scheme}://{address}"))
            .arg(format!("--advertise-client-urls={scheme}://{address}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster=default=http://{peer}"))
            .arg("--log-level=error")
            .args(flags)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut reference = Reference { child, address, dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&reference.address).is_err() {
            assert!(Instant::now() < deadline, "the reference does not start");
            assert!(reference.child.try_wait().unwrap().is_none(), "the reference has ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        reference
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SHORT: [&str; 8] = ["--seconds", "0.2", "--warm-up-seconds", "0.1", "--callers", "4", "--connections", "2"];

#[test]
#[ignore = "needs the reference server, named by URD_BENCH_ETCD"]
fn a_server_that_does_not_sync_is_refused() {
    let etcd = etcd().display().to_string();
    let compare = |more: &[&str]| {
        let words = ["compare", "--etcd", &etcd, "--urd", &etcd, "--rows", "smoke:get", "--seconds", "0.1"];
        bench(&[&words, more].concat())
    };
    let output = compare(&["--etcd-flag=--unsafe-no-fsync"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("etcd (") && said.contains("refusing to compare"), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("rate/s"), "something was measured");

    let output = compare(&["--urd-flag=--unsafe-no-fsync"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("urd ("), "the other side is looked at too");

    assert!(compare(&[]).status.success(), "what syncs is compared");
}

#[test]
#[ignore = "needs the reference server, named by URD_BENCH_ETCD"]
fn a_run_is_repeated_from_its_results() {
    let reference = Reference::start(|_| Vec::new());
    let read = |folder: &str| -> serde_json::Value {
        let text = fs::read_to_string(Path::new(&reference.file(folder)).join("results.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (first, second) = (reference.file("first"), reference.file("second"));
    let workloads = ["--workload", "put", "--workload", "mixed", "--keys", "77", "--read-percent", "33"];
    let words = ["run", "--endpoints", &reference.address, "--out", &first];
    assert!(bench(&[&words, &SHORT[..], &workloads].concat()).status.success());
    let results = Path::new(&first).join("results.json").display().to_string();
    assert!(bench(&["again", &results, "--out", &second]).status.success());
    let (before, after) = (read("first"), read("second"));
    assert_eq!(before["command"], after["command"]);
    assert_eq!(before["command"]["run"]["plans"][1]["read_percent"], 33);
    let plans = |results: &serde_json::Value| {
        results["rows"].as_array().unwrap().iter().map(|row| row["row"]["plan"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(plans(&before), plans(&after));
    assert!(after["rows"][1]["sides"][0]["outcome"]["operations"].as_u64().unwrap() > 0);
}

#[test]
#[ignore = "needs the reference server, named by URD_BENCH_ETCD"]
fn tls_with_a_certificate_on_either_side() {
    let reference = Reference::start(|folder| {
        make_certificates(folder);
        let file = |name: &str| folder.join(name).display().to_string();
        vec![
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server-key.pem")),
            format!("--trusted-ca-file={}", file("ca.pem")),
            "--client-cert-auth".to_owned(),
        ]
    });
    let endpoint = format!("https://{}", reference.address);
    let files = ["ca.pem", "client.pem", "client-key.pem", "other-ca.pem"].map(|name| reference.file(name));
    let [authority, certificate, key, other] = files.each_ref().map(String::as_str);
    let run = |more: &[&str]| {
        bench(&[&["run", "--endpoints", &endpoint, "--workload", "put"], &SHORT[..], more].concat()).status.success()
    };
    assert!(run(&["--cacert", authority, "--cert", certificate, "--key", key]));
    assert!(!run(&["--cacert", other, "--cert", certificate, "--key", key]), "a certificate of somebody else");
    assert!(!run(&["--cacert", authority]), "without a certificate of its own");
    assert!(!run(&[]), "https without an authority");
}

/// `ca.pem`, a server's and a client's certificate by it, and `other-ca.pem` that has signed nothing.
fn make_certificates(folder: &Path) {
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        write(&format!("{name}.pem"), certificate.pem());
        Issuer::new(params, key)
    };
    let issuer = authority("ca");
    authority("other-ca");
    let ends = [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)];
    for (name, usage) in ends {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        // The server asks itself through its gateway, with its own certificate.
        params.extended_key_usages = vec![usage, ExtendedKeyUsagePurpose::ClientAuth];
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
}

#[test]
#[ignore = "needs the reference server, named by URD_BENCH_ETCD"]
fn a_user_with_a_password() {
    let reference = Reference::start(|_| Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&reference.address).await.unwrap();
        let text = |text: &str| text.to_owned();
        let user = AuthUserAddRequest { name: text("root"), password: text("a:secret"), ..Default::default() };
        let _: AuthUserAddResponse = client.unary("/etcdserverpb.Auth/UserAdd", &user).await.unwrap();
        let role = AuthRoleAddRequest { name: text("root") };
        let _: AuthRoleAddResponse = client.unary("/etcdserverpb.Auth/RoleAdd", &role).await.unwrap();
        let grant = AuthUserGrantRoleRequest { user: text("root"), role: text("root") };
        let _: AuthUserGrantRoleResponse = client.unary("/etcdserverpb.Auth/UserGrantRole", &grant).await.unwrap();
        let _: AuthEnableResponse = client.unary("/etcdserverpb.Auth/AuthEnable", &AuthEnableRequest {}).await.unwrap();
    });
    let out = reference.file("out");
    let run = |more: &[&str]| {
        let words = ["run", "--endpoints", &reference.address, "--workload", "put", "--out", &out];
        bench(&[&words, &SHORT[..], more].concat()).status.success()
    };
    assert!(run(&["--user", "root:a:secret"]));
    let kept = fs::read_to_string(Path::new(&out).join("results.json")).unwrap();
    assert!(!kept.contains("secret"), "a password is not kept");
    assert!(!run(&["--user", "root:wrong"]));
    assert!(!run(&[]));
}
