//! What the operator may set and a client notices: files of settings, listeners, log files, checks of the data.

mod server;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use server::{PATIENCE, Server, binary, free_address, is_reference, soon};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use urd_client::{Client, Options, Scheme};

/// One request of HTTP/1.1; gives all that comes back, nothing if the connection is just closed.
async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

async fn says_version(address: &str) -> bool {
    get(connect(address).await, "/version").await.starts_with("HTTP/1.1 200 OK")
}

#[tokio::test]
async fn a_file_of_settings_takes_the_place_of_flags() {
    let mut server = Server::prepare(&[]);
    let (client, peer) = (format!("http://{}", server.address), format!("http://{}", free_address()));
    let file = server.log_path().with_file_name("settings.yml");
    let settings = format!(
        "name: of-file\n\
         data-dir: {}\n\
         listen-client-urls: {client}\n\
         advertise-client-urls: {client}\n\
         listen-peer-urls: {peer}\n\
         initial-advertise-peer-urls: {peer}\n\
         initial-cluster: of-file={peer}\n\
         max-txn-ops: 3\n\
         no-such-key: 5\n",
        server.data_dir().display(),
    );
    fs::write(&file, settings).unwrap();
    // What is set beside it would not do: it counts for nothing.
    server.spawn_as(|usual| {
        let mut command = std::process::Command::new(usual.get_program());
        command.arg(format!("--config-file={}", file.display())).arg("--name=of-flag").arg("--max-txn-ops=99");
        command.env("ETCD_NAME", "of-variable");
        command
    });
    assert!(server.is_ready().await, "{}", server.log());
    let client = server.client().await;
    assert_eq!(client.member_list().await.unwrap().members[0].name, "of-file");
    let compare = (0..4).map(|i| urd_client::op::version(format!("{i}"), 0)).collect();
    let txn = urd_client::etcdserverpb::TxnRequest { compare, ..Default::default() };
    server::refused(client.call(&txn).await, &urd::error::TOO_MANY_OPS);
    assert!(server.log().contains("loaded server configuration"));
    server.kill();

    fs::write(&file, "snapshot-count: many\n").unwrap();
    let output = std::process::Command::new(binary()).env("ETCD_CONFIG_FILE", &file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("snapshot-count"));
}

#[tokio::test]
async fn a_socket_file_takes_clients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.sock");
    let mut server = Server::prepare(&[&format!("--listen-client-urls=unix://{}", path.display())]);
    server.spawn();
    let client = soon(async {
        loop {
            if let Ok(stream) = UnixStream::connect(&path).await
                && let Ok(client) = Client::over(stream, Scheme::HTTP, "localhost", Options::default()).await
                && client.put("k", "v").await.is_ok()
            {
                return client;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(client.get("k").await.unwrap().kvs[0].value, "v");
    let answer = get(UnixStream::connect(&path).await.unwrap(), "/health").await;
    assert!(answer.ends_with(r#"{"health":"true","reason":""}"#), "{answer}");
    drop(client);
    server.terminate();
    assert!(!path.exists(), "it is gone with the member");
}

#[tokio::test]
async fn http_may_have_listeners_of_its_own() {
    let http = free_address();
    let server = Server::start_with(&[&format!("--listen-client-http-urls=http://{http}")]).await;
    assert!(says_version(&http).await);
    assert!(get(connect(&http).await, "/metrics").await.contains("etcd_server_has_leader 1"));
    // The client URLs are gRPC's alone, and these are not.
    assert!(!get(connect(&server.address).await, "/version").await.contains("200 OK"));
    server.client().await.put("k", "v").await.unwrap();
    let refused = soon(async { Client::connect(&http).await?.put("k", "v").await }).await;
    refused.expect_err("no gRPC there");
    assert!(says_version(&http).await);
}

#[tokio::test]
async fn a_port_may_be_shared() {
    if is_reference() {
        // Its peer port would have to be another as well.
        return;
    }
    let server = Server::start_with(&["--socket-reuse-port"]).await;
    let url = format!("http://{}", server.address);
    let listen = [
        "--socket-reuse-port".to_owned(),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
    ];
    let mut other = Server::prepare(&listen.each_ref().map(String::as_str));
    other.spawn();
    soon(async {
        while !other.log().contains("ready to serve client requests") {
            assert!(!other.log().contains("address already in use"), "{}", other.log());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    other.kill();
    let mut alone = Server::prepare(&listen[1..].iter().map(String::as_str).collect::<Vec<_>>());
    alone.spawn();
    assert_eq!(alone.wait().code(), Some(1), "who does not say so is refused");
}

fn log_files(folder: &Path) -> Vec<String> {
    server::names(folder).unwrap().into_iter().filter(|name| name.starts_with("urd")).collect()
}

#[tokio::test]
async fn a_full_log_file_is_moved_aside_packed_and_in_time_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("urd.log");
    // A file that was nearly full when the last life ended.
    fs::write(&path, vec![b'x'; 1024 * 1024 - 200]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    for year in [2021, 2022, 2023] {
        fs::write(folder.path().join(format!("urd-{year}-01-01T00-00-00.000.log")), "old").unwrap();
    }
    let _server = Server::start_with(&[
        &format!("--log-outputs={}", path.display()),
        "--enable-log-rotation",
        r#"--log-rotation-config-json={"maxsize": 1, "maxbackups": 2, "compress": true}"#,
    ])
    .await;
    soon(async {
        loop {
            let files = log_files(folder.path());
            if files.len() == 3 && files.iter().filter(|name| name.ends_with(".log.gz")).count() == 2 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let files = log_files(folder.path());
    assert!(files.contains(&"urd-2023-01-01T00-00-00.000.log.gz".to_owned()), "{files:?}");
    let log = fs::read_to_string(&path).unwrap();
    assert!(!log.contains("xxx") && log.contains("ready to serve client requests"));
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "as the one before it");
}

#[tokio::test]
async fn memory_is_kept_from_being_swapped_out() {
    if is_reference() {
        // It locks its database alone.
        return;
    }
    let server = Server::start_with(&["--memory-mlock"]).await;
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("Linux tells it");
    let kilobytes: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
    // Whether this machine lets a process do so is not the server's to say: it does it, or tells why not.
    let refused = server.log().contains("memory cannot be locked");
    assert_eq!(kilobytes > 1000, !refused, "{locked}\n{}", server.log());
}

#[tokio::test]
async fn data_that_are_sound_pass_every_check() {
    if is_reference() {
        // It says nothing of a check that finds nothing.
        return;
    }
    let server = Server::start_with(&["--corrupt-check-time=50ms", "--log-level=debug"]).await;
    let client = server.client().await;
    for i in 0..100 {
        client.put(format!("{}", i % 10), "v".repeat(i)).await.unwrap();
        if i % 20 == 0 {
            client.compact(client.get("0").await.unwrap().header.unwrap().revision).await.unwrap();
        }
    }
    let finished = || server.log().matches("finished hash check").count();
    let before = finished();
    soon(async {
        while finished() < before + 3 {
            client.put("k", "v").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(server.log().contains("enabled corruption checking"));
    assert!(client.status().await.unwrap().errors.is_empty());
}
