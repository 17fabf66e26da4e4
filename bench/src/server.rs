//! A server that this program starts, urd or etcd: fresh data, free ports, pinned to a core, in a cgroup of its own where
//! that can be had. It ends with its owner. What it does is seen through `gauge/`.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    certificates,
    gauge::{Cgroup, Gauge, MemoryLimit},
    interrupt, machine,
    target::{Dialer, Target},
    wire,
};

/// A start that takes longer has failed: a restart with a million keys takes seconds.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub program: PathBuf,
    /// More flags, after those for folders and addresses.
    pub flags: Vec<String>,
    /// CPU to be pinned to.
    pub core: usize,
    /// Where the data folder is made.
    pub parent: PathBuf,
    /// Clients are served with TLS.
    pub tls: bool,
}

/// A server's place in a cluster of several.
#[derive(Clone, Debug)]
pub struct Seat {
    pub name: String,
    /// As in --initial-cluster.
    pub cluster: String,
    /// It joins one that there is.
    pub joins: bool,
}

pub struct Server {
    recipe: Recipe,
    /// None: it is alone.
    seat: Option<Seat>,
    child: Option<Child>,
    cgroup: Option<Cgroup>,
    limit: Option<MemoryLimit>,
    dir: tempfile::TempDir,
    ports: (u16, u16),
}

impl Server {
    /// Starts it with a fresh data folder and waits until it answers a linearizable read.
    ///
    /// # Errors
    /// If it cannot be started or does not answer; the end of its log is in the text.
    pub async fn start(recipe: Recipe) -> Result<Self, String> {
        Self::start_within(recipe, None).await
    }

    /// The same under a limit on its memory.
    pub async fn start_within(recipe: Recipe, limit: Option<MemoryLimit>) -> Result<Self, String> {
        let mut server = Self::prepare(recipe, limit)?;
        server.launch().await?;
        Ok(server)
    }

    /// Its folder and its ports, and nothing that runs.
    pub fn prepare(recipe: Recipe, limit: Option<MemoryLimit>) -> Result<Self, String> {
        let text = |cause: io::Error| format!("{}: {cause}", recipe.program.display());
        let dir = tempfile::Builder::new().prefix("urd-bench-").tempdir_in(&recipe.parent).map_err(text)?;
        let ports = free_ports().map_err(text)?;
        interrupt::keep(dir.path());
        if recipe.tls {
            certificates::make(dir.path())?;
        }
        Ok(Server { recipe, seat: None, child: None, cgroup: Cgroup::create(), limit, dir, ports })
    }

    /// From its next start on.
    pub fn sit(&mut self, seat: Seat) {
        self.seat = Some(seat);
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.1)
    }

    /// `host:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn target(&self) -> Target {
        Target {
            endpoints: vec![self.client_url()],
            cacert: self.recipe.tls.then(|| self.dir.path().join(certificates::AUTHORITY)),
            ..Target::default()
        }
    }

    fn client_url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.recipe.tls { "https" } else { "http" }, self.ports.0)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Bytes under the limit on its memory, if it has one.
    pub fn limited_bytes(&self) -> Option<u64> {
        self.limit.as_ref().and_then(MemoryLimit::used_bytes)
    }

    pub fn gauge(&self) -> Gauge {
        Gauge { pid: self.pid(), cgroup: self.cgroup.clone(), data_dir: Some(self.data_dir()), beside: Vec::new() }
    }

    /// How it has ended by itself, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        Some(format!("the server has ended, {status}; the end of its log: {}", log.lines().last().unwrap_or("nothing")))
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; it goes on as long as it likes.
    pub fn terminate(&mut self) {
        // SAFETY: signals a child that has not been waited for, so that its id is nobody else's.
        unsafe { libc::kill(self.pid() as libc::pid_t, libc::SIGTERM) };
    }

    /// Starts it again on the same data. Gives the time from the start of the process to the first answered linearizable
    /// read.
    pub async fn launch(&mut self) -> Result<Duration, String> {
        let begin = self.spawn()?;
        self.ready(begin).await
    }

    /// Starts it, and gives when.
    pub fn spawn(&mut self) -> Result<Instant, String> {
        assert!(self.child.is_none(), "the one before was killed");
        let log_path = self.dir.path().join("log");
        let text = |cause: io::Error| format!("{}: {cause}", self.recipe.program.display());
        let log = fs::File::create(&log_path).map_err(text)?;
        let entrances = [
            self.cgroup.as_ref().map(|group| group.entrance()).transpose().map_err(text)?,
            self.limit.as_ref().map(|limit| limit.entrance()).transpose().map_err(text)?,
        ];
        let (core, fds) =
            (self.recipe.core, entrances.each_ref().map(|one| one.as_ref().map(|entrance| entrance.fd())));
        let (client, peer) = (self.client_url(), self.peer_url());
        let seat = self.seat.clone();
        let seat =
            seat.unwrap_or_else(|| Seat { name: "default".into(), cluster: format!("default={peer}"), joins: false });
        let mut command = Command::new(&self.recipe.program);
        command
            .arg(format!("--name={}", seat.name))
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", seat.cluster))
            .arg(format!("--initial-cluster-state={}", if seat.joins { "existing" } else { "new" }))
            .arg("--log-level=error")
            .args(self.tls_flags())
            .args(&self.recipe.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: between fork and exec only system calls are made, on descriptors that are open until the child has its
        // own.
        unsafe {
            command.pre_exec(move || {
                for fd in fds.into_iter().flatten() {
                    if libc::write(fd, c"0".as_ptr().cast(), 1) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                // An interrupted driver leaves no server behind; the thread that starts it lives as long as the driver.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                    return Err(io::Error::last_os_error());
                }
                machine::pin(core)
            });
        }
        let begin = Instant::now();
        self.child = Some(command.spawn().map_err(text)?);
        Ok(begin)
    }

    /// The time from then to the first answered linearizable read.
    pub async fn ready(&mut self, begin: Instant) -> Result<Duration, String> {
        let log_path = self.dir.path().join("log");
        let answered = self.first_read(begin).await;
        answered.map_err(|cause| {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(5).collect();
            format!(
                "{}: {cause}\n{}",
                self.recipe.program.display(),
                end.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        })
    }

    fn tls_flags(&self) -> Vec<String> {
        if !self.recipe.tls {
            return Vec::new();
        }
        let [cert, key] = certificates::SERVER.map(|name| self.dir.path().join(name).display().to_string());
        vec![format!("--cert-file={cert}"), format!("--key-file={key}")]
    }

    async fn first_read(&mut self, begin: Instant) -> Result<Duration, String> {
        let address = self.address();
        let dialer = Dialer::new(self.target())?;
        loop {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("it has ended at its start, {status}"));
            }
            if begin.elapsed() > START_PATIENCE {
                return Err(format!("it does not answer within {} s", START_PATIENCE.as_secs()));
            }
            // A refused connection costs the server nothing; a client is built only where somebody listens.
            if TcpStream::connect(&address).is_ok() {
                let read = async {
                    dialer.connect().await.ok()?.unary_bytes(wire::RANGE, wire::get(b"ready", false)).await.ok()
                };
                if let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(10), read).await {
                    return Ok(begin.elapsed());
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A copy of its data beside them, and what puts it in their place. The server must not be running.
    pub fn keep_data(&self) -> io::Result<KeptData> {
        assert!(self.child.is_none(), "data that are being written cannot be copied");
        let kept = self.dir.path().join("kept");
        copy_folder(&self.data_dir(), &kept)?;
        Ok(KeptData { kept, place: self.data_dir() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub struct KeptData {
    kept: PathBuf,
    place: PathBuf,
}

impl KeptData {
    pub fn restore(self) -> io::Result<()> {
        fs::remove_dir_all(&self.place)?;
        fs::rename(&self.kept, &self.place)
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Two that are free now, held together so that they are two.
fn free_ports() -> io::Result<(u16, u16)> {
    let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((one.local_addr()?.port(), other.local_addr()?.port()))
}

/// What is known of a program.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Program {
    pub path: PathBuf,
    /// What `--version` says, its first lines.
    pub version: String,
    /// Of the work tree that the program lies in, `+` if there are changes; empty if it lies in none.
    pub commit: String,
}

impl Program {
    /// # Errors
    /// If it cannot be run.
    pub fn look(path: &Path) -> Result<Self, String> {
        let said = |command: &mut Command| -> io::Result<Option<String>> {
            let output = command.stderr(Stdio::null()).output()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
            Ok(output.status.success().then_some(text))
        };
        let version =
            said(Command::new(path).arg("--version")).map_err(|cause| format!("{}: {cause}", path.display()))?;
        let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        let git = |words: &[&str]| said(Command::new("git").arg("-C").arg(folder).args(words)).ok().flatten();
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
        let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
        let mark = if is_changed && !commit.is_empty() { "+" } else { "" };
        Ok(Program { path: path.to_owned(), version: version.unwrap_or_default(), commit: format!("{commit}{mark}") })
    }
}
