//! The server under load: starts it pinned to a core, tells its CPU time and memory from `/proc`.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The first core for the server, the last for the driver: the same one on a machine that has only one.
pub fn server_core() -> usize {
    0
}

pub fn driver_core() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get()).saturating_sub(1)
}

fn pin(core: usize) -> io::Result<()> {
    // SAFETY: cpu_set_t is plain data for which all zeros is a valid value; the calls only read it and write it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

pub fn pin_self(core: usize) {
    if let Err(cause) = pin(core) {
        eprintln!("urd-bench: cannot pin the driver to core {core}: {cause}");
    }
}

pub struct Server {
    child: Child,
    pub endpoint: String,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts a server with a fresh data directory, waits until it answers.
    pub fn start(program: &Path, core: usize) -> Result<Self, String> {
        let text = |cause: io::Error| format!("{}: {cause}", program.display());
        let dir = tempfile::tempdir().map_err(text)?;
        let (client, peer) = (free_port().map_err(text)?, free_port().map_err(text)?);
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new(program);
        command
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster=default={peer_url}"))
            .arg("--log-level=error")
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(move || pin(core));
        }
        let child = command.spawn().map_err(text)?;
        let server = Server { child, endpoint: format!("127.0.0.1:{client}"), _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
            let ready = runtime.block_on(tokio::task::LocalSet::new().run_until(async {
                let client = urd_client::Client::connect(&server.endpoint).await.ok()?;
                client.get("ready").await.ok()
            }));
            if ready.is_some() {
                return Ok(server);
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not answer", program.display()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The share of one core that the server takes while nobody asks for anything.
    pub fn idle_cpu(&self, duration: Duration) -> f64 {
        std::thread::sleep(Duration::from_secs(1));
        let before = cpu_of(self.pid());
        std::thread::sleep(duration);
        (cpu_of(self.pid()) - before).as_secs_f64() / duration.as_secs_f64()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// CPU time of a process, all its threads, from the scheduler's own nanoseconds.
pub fn cpu_of(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(threads.flatten().filter_map(|thread| of_thread(thread.path())).sum())
}

pub fn rss_of(pid: u32) -> u64 {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return 0 };
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}
