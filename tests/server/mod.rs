//! Starts the built server for a test, with ports and a data directory of its own, and ends it with the test.
//! `URD_TEST_SERVER` names another binary to test, such as the reference server: what these tests demand is what that
//! server does.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod certificates;
pub mod cluster;
pub mod users;

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use urd::error::Status;
use urd_client::{Client, Error};

/// How long anything may take that is to happen at all. Long, for machines that are busy: nothing is timed by it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn binary() -> PathBuf {
    std::env::var_os("URD_TEST_SERVER").map_or_else(|| env!("CARGO_BIN_EXE_urd").into(), PathBuf::from)
}

/// Whether it is the reference server that is tested.
pub fn is_reference() -> bool {
    binary().file_name().is_some_and(|name| name == "etcd")
}

pub struct Server {
    child: Option<Child>,
    home: TempDir,
    /// `host:port` for clients.
    pub address: String,
    peer_address: String,
    more: Vec<String>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more flags than those for its place.
    pub async fn start_with(more: &[&str]) -> Self {
        for _ in 0..5 {
            let mut server = Server::prepare(more);
            server.spawn();
            if server.is_ready().await {
                return server;
            }
            // Somebody else may have taken a port between the choice and the start.
            let log = server.log();
            assert!(log.contains("address already in use"), "the server ended at its start:\n{log}");
        }
        panic!("no free port found");
    }

    /// Chooses ports and a directory, and starts nothing.
    pub fn prepare(more: &[&str]) -> Self {
        let home = TempDir::new().expect("a directory for the test");
        let (address, peer_address) = (free_address(), free_address());
        Server { child: None, home, address, peer_address, more: more.iter().map(|&flag| flag.to_owned()).collect() }
    }

    /// Adds a flag, for what depends on the place.
    pub fn add(&mut self, flag: String) {
        self.more.push(flag);
    }

    /// The command line, to be started by hand.
    pub fn command(&self) -> Command {
        let client = format!("http://{}", self.address);
        let peer = format!("http://{}", self.peer_address);
        let mut command = Command::new(binary());
        command
            .arg("--name=default")
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .args(&self.more)
            .stdin(Stdio::null());
        command
    }

    /// The same, with more flags from its next start on.
    pub fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// `host:port` for other members.
    pub fn peer_address(&self) -> &str {
        &self.peer_address
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// Everything the server has said, all its lives together.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Waits until it has said so: a line about a request may be written after the request's answer.
    pub async fn says(&self, text: &str) {
        let begin = Instant::now();
        while !self.log().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "it does not say {text:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts it, and waits until it answers.
    pub async fn restart(&mut self) {
        self.spawn();
        assert!(self.is_ready().await, "the server ended at its restart:\n{}", self.log());
    }

    pub fn spawn(&mut self) {
        self.spawn_as(|command| command);
    }

    /// By another command, made of the usual one.
    pub fn spawn_as(&mut self, make: impl FnOnce(Command) -> Command) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log opens");
        let mut command = make(self.command());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().expect("the server starts"));
    }

    /// True once it answers, false if it has ended.
    pub async fn is_ready(&mut self) -> bool {
        let begin = Instant::now();
        loop {
            if let Ok(client) = Client::connect(&self.address).await
                && client.get("health").await.is_ok()
            {
                return true;
            }
            if self.child_mut().try_wait().expect("the child can be asked").is_some() {
                self.child = None;
                return false;
            }
            assert!(begin.elapsed() < PATIENCE, "the server does not get ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.address).await.expect("the server takes a connection")
    }

    /// SIGKILL, and nothing of it runs after this.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// The same, with something to be done between the signal and the end of what it cuts short: a process whose disk
    /// does not answer cannot end before it does.
    pub fn kill_and(&mut self, then: impl FnOnce()) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child can be killed");
        then();
        child.wait().expect("a child can be waited for");
    }

    /// SIGTERM; gives how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let status = wait(self.child_mut());
        self.child = None;
        status
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Bytes of memory resident now. (proc(5), VmRSS.)
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("proc is mounted");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number of KiB");
        kib * 1024
    }

    fn child_mut(&mut self) -> &mut Child {
        self.child.as_mut().expect("it runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the server's last lines ---");
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Waits for a child, but not for ever.
pub fn wait(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child can be asked") {
            return status;
        }
        assert!(begin.elapsed() < PATIENCE, "the process does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether it ended as a server that was told to stop ends: with 0. The reference server hands the signal on to itself.
pub fn ended_well(status: ExitStatus) -> bool {
    status.success() || (is_reference() && status.signal() == Some(15))
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.expect("kill(1) is there").success());
}

/// An address of this machine on which nobody listens.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

/// Waits for what is to happen; if it does not, the test fails.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

/// The request was refused with exactly this code and text.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>, status: &Status) {
    let error = result.expect_err("a refusal");
    assert!(error.is(status), "refused with: {error}\n     wanted: {status}");
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}
