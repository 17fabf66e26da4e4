//! A network of namespaces on a bridge, one for each member; the test itself is at the bridge. What one member says
//! to another can be lost (a rule at the receiver's end, so that the sender hears nothing at all), or come late.
//!
//! All of it is made within namespaces of the test's own (see `inside`), so that nothing is left when the test ends, however
//! it ends.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

pub const PEER_PORT: u16 = 2380;
const INSIDE: &str = "URD_TROUBLE_INSIDE";

/// Runs this test once more in namespaces of its own (network, mounts, processes), unless it is in them already: then None.
/// Whatever it starts, mounts and makes there ends with it.
pub fn inside(test: &str, home: &Path) -> Option<ExitStatus> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let own = std::env::current_exe().expect("a test knows its file");
    let mut command = Command::new("unshare");
    // SAFETY: between fork and exec one system call is made. Whoever ends this test ends all of it.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let status = command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(own)
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, home)
        .status();
    match status {
        Ok(status) => Some(status),
        Err(cause) => {
            panic!("unshare(1) cannot be run: {cause}. This test needs it, and the right to make namespaces (root)")
        }
    }
}

/// The folder that `inside` was told.
pub fn home() -> std::path::PathBuf {
    std::env::var_os(INSIDE).expect("only inside").into()
}

/// `10.77.0.11` and so on.
pub fn address(member: usize) -> String {
    format!("10.77.0.{}", 11 + member)
}

pub fn namespace(member: usize) -> String {
    format!("member{}", member + 1)
}

pub struct Network {
    /// Ways (from, to) on which everything is lost.
    cuts: BTreeSet<(usize, usize)>,
    /// How late everything comes to a member, in milliseconds.
    late: Vec<Arc<AtomicU64>>,
}

impl Network {
    /// # Panics
    /// Where it is not allowed: what this test needs is not there, and that is a failure, not a reason to pass.
    pub fn new(places: usize) -> Self {
        // `ip netns exec` gives its command mounts of its own: what is unmounted here is to be unmounted there too, or the
        // file system lives on.
        run("mount --make-rshared /");
        std::fs::create_dir_all("/run/netns").expect("a folder for the namespaces' names");
        run("mount -t tmpfs namespaces /run/netns");
        run("ip link set lo up");
        run("ip link add bridge type bridge");
        run("ip addr add 10.77.0.1/24 dev bridge");
        run("ip link set bridge up");
        let late = (0..places).map(|_| Arc::new(AtomicU64::new(0))).collect::<Vec<_>>();
        for (member, late) in late.iter().enumerate() {
            let (name, address) = (namespace(member), address(member));
            run(&format!("ip netns add {name}"));
            run(&format!("ip link add to-{name} type veth peer name eth0 netns {name}"));
            run(&format!("ip link set to-{name} master bridge up"));
            run(&format!("ip -n {name} addr add {address}/24 dev eth0"));
            run(&format!("ip -n {name} link set eth0 up"));
            run(&format!("ip -n {name} link set lo up"));
            // The kernel asks the local table first. Rules that lose what comes from somebody have to stand before it.
            run(&format!("ip -n {name} rule add pref 100 lookup local"));
            run(&format!("ip -n {name} rule del pref 0"));
            slow_link(member, late.clone());
        }
        Network { cuts: BTreeSet::new(), late }
    }

    /// Loses everything that one says to the other, until it is mended.
    pub fn cut(&mut self, from: usize, to: usize) {
        if self.cuts.insert((from, to)) {
            run(&format!("ip -n {} rule add pref 10 from {} blackhole", namespace(to), address(from)));
        }
    }

    pub fn mend(&mut self) {
        for (from, to) in std::mem::take(&mut self.cuts) {
            run(&format!("ip -n {} rule del pref 10 from {}", namespace(to), address(from)));
        }
        self.late.iter().for_each(|late| late.store(0, Relaxed));
    }

    /// Lets everything that others say to a member, and its answers on their connections, come so much later.
    pub fn slow(&self, member: usize, late: Duration) {
        self.late[member].store(late.as_millis() as u64, Relaxed);
    }
}

/// One command that must go well.
pub fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output();
    let failed = |cause: &str| -> ! {
        panic!("{line}: {cause}. This test needs ip(8), network namespaces, mkfs.ext4 and the right to use them (root)")
    };
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => failed(String::from_utf8_lossy(&output.stderr).trim()),
        Err(cause) => failed(&cause.to_string()),
    }
}

/// Listens on a member's peer address in its namespace, and hands everything on to the member, which listens on the
/// loopback there. (netem is not in every kernel.)
fn slow_link(member: usize, late: Arc<AtomicU64>) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        enter(&namespace(member)).expect("a namespace can be entered by who has made it");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind((address(member), PEER_PORT)).await.expect("its port is free");
            ready.send(()).expect("it is waited for");
            loop {
                let Ok((outer, _)) = listener.accept().await else { continue };
                let late = late.clone();
                tokio::spawn(async move {
                    // Who is refused behind the link sees the connection end, not refused: as with a machine whose kernel
                    // is there before the member is.
                    let Ok(inner) = TcpStream::connect(("127.0.0.1", PEER_PORT)).await else { return };
                    let _ = (outer.set_nodelay(true), inner.set_nodelay(true));
                    let ((outer_in, outer_out), (inner_in, inner_out)) = (outer.into_split(), inner.into_split());
                    tokio::join!(hand_on(outer_in, inner_out, &late), hand_on(inner_in, outer_out, &late));
                });
            }
        });
    });
    is_ready.recv().expect("the link of a member");
}

/// Pieces that are on their way at most.
const PIECES: usize = 64;

async fn hand_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, late: &AtomicU64) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_millis(late.load(Relaxed));
            if sender.send((due, buffer[..len].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = receiver.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Moves this thread into a network namespace.
fn enter(name: &str) -> io::Result<()> {
    let namespace = File::open(Path::new("/run/netns").join(name))?;
    // SAFETY: the descriptor is open; the call changes the calling thread's network only.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
