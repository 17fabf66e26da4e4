//! The process: how it starts, how it refuses to, how it ends. (etcd: configuration flags; exit status.)

mod server;

use std::{fs, net::TcpListener, process::Stdio};

use server::{Server, binary, ended_well, is_reference, names, signal, wait};

/// Starts what must fail, and gives all that it said.
fn fails(server: &Server, more: &[&str]) -> String {
    let mut command = server.command();
    command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert!(!output.status.success(), "it started");
    assert!(output.status.code().is_some(), "it ended by a signal: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn sigterm_and_sigint_end_it_well_and_lose_nothing() {
    let mut server = Server::start().await;
    for (round, name) in ["TERM", "INT"].into_iter().enumerate() {
        let client = server.client().await;
        let mut open = client.watch("k", "", 0).await.unwrap();
        client.put("k", round.to_string()).await.unwrap();
        open.next().await.unwrap();
        signal(server.pid(), name);
        let status = server.wait();
        assert!(ended_well(status) || (is_reference() && !status.success()), "SIG{name}: {status}");
        assert!(open.next().await.is_err(), "a stream ends with the server");
        server.restart().await;
        let kv = server.client().await.get("k").await.unwrap().kvs.remove(0);
        assert_eq!((&kv.value[..], kv.version), (round.to_string().as_bytes(), 1 + round as i64));
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = Server::prepare(&[]);
    let _taken = TcpListener::bind(&server.address).unwrap();
    let said = fails(&server, &[]);
    assert!(said.contains(&server.address) && said.contains("address already in use"), "{said}");
    // And so where another server of the same kind has it.
    let running = Server::start().await;
    let url = format!("http://{}", running.address);
    let said = fails(
        &Server::prepare(&[]),
        &[&format!("--listen-client-urls={url}"), &format!("--advertise-client-urls={url}")],
    );
    assert!(said.contains("address already in use"), "{said}");
    assert_eq!(running.client().await.get("k").await.unwrap().count, 0);
}

#[tokio::test]
async fn a_second_process_does_not_touch_a_directory_in_use() {
    // The reference waits for the lock instead.
    if is_reference() {
        return;
    }
    let running = Server::start().await;
    running.client().await.put("k", "v").await.unwrap();
    let second = Server::prepare(&[]);
    let dir = format!("--data-dir={}", running.data_dir().display());
    let said = fails(&second, &[&dir]);
    assert!(said.contains(&running.data_dir().display().to_string()), "it names the directory: {said}");
    assert_eq!(running.client().await.get("k").await.unwrap().count, 1);
    running.client().await.put("k", "w").await.unwrap();
}

#[tokio::test]
async fn a_data_directory_of_etcd_is_left_alone() {
    if is_reference() {
        return;
    }
    let server = Server::prepare(&[]);
    // The outline of such a directory is enough to be known by.
    let member = server.data_dir().join("member");
    fs::create_dir_all(member.join("snap")).unwrap();
    fs::create_dir_all(member.join("wal")).unwrap();
    fs::write(member.join("snap/db"), [0; 32 * 1024]).unwrap();
    fs::write(member.join("wal/0000000000000000-0000000000000000.wal"), [0; 4096]).unwrap();
    let before = (names(&server.data_dir()).unwrap(), names(&member).unwrap());
    let said = fails(&server, &[]);
    assert!(said.contains("etcd"), "it says what it found: {said}");
    assert_eq!((names(&server.data_dir()).unwrap(), names(&member).unwrap()), before);
}

#[test]
fn an_unknown_flag_is_refused_and_the_nearest_named() {
    let output = std::process::Command::new(binary()).arg("--listen-client-url=http://127.0.0.1:1").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("listen-client-url"), "{said}");
    assert!(is_reference() || said.contains("--listen-client-urls"), "the nearest flag is not named: {said}");
}

#[test]
fn version_is_told_without_a_start() {
    let mut command = std::process::Command::new(binary());
    let mut child = command.arg("--version").stdout(Stdio::piped()).spawn().unwrap();
    assert!(wait(&mut child).success());
    let said = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    // Tools read the first line for the version of the protocol.
    let first = said.lines().next().unwrap_or_default();
    assert!(first.starts_with("etcd Version: 3.7."), "{said}");
}
