//! Members, each a process in a namespace of its own, and the ways between them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    access::Access,
    disk::Disk,
    network::{Network, PEER_PORT, address, namespace},
    server::{PATIENCE, binary, signal},
};

/// Of a cluster in trouble.
pub const MEMBERS: usize = 3;
pub const CLIENT_PORT: u16 = 2379;
/// The server of each member, separated by commas; without, all have the one that is tested.
const SERVERS: &str = "URD_TROUBLE_SERVERS";

pub struct Member {
    /// Its place: the namespace it runs in.
    pub number: usize,
    pub name: String,
    server: PathBuf,
    /// `http` or `https`.
    scheme: &'static str,
    data_dir: PathBuf,
    more: Vec<String>,
    /// Of its own, where it may fail.
    disk: Option<Disk>,
    child: Option<Child>,
    is_paused: bool,
    log: PathBuf,
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub network: Network,
}

/// `host:port` for clients.
pub fn endpoint(place: usize) -> String {
    format!("{}:{CLIENT_PORT}", address(place))
}

/// Where other members reach who is at this place.
pub fn peer_url(scheme: &str, place: usize) -> String {
    format!("{scheme}://{}:{PEER_PORT}", address(place))
}

/// etcd or urd, told by the file's name.
pub fn is_etcd(server: &Path) -> bool {
    server.file_name().is_some_and(|name| name == "etcd")
}

/// The server of each member of a cluster in trouble.
pub fn servers() -> Vec<PathBuf> {
    let servers: Vec<PathBuf> = match std::env::var(SERVERS) {
        Ok(list) => list.split(',').map(PathBuf::from).collect(),
        Err(_) => vec![binary(); MEMBERS],
    };
    assert!(servers.len() == MEMBERS, "{SERVERS} names {MEMBERS} servers, separated by commas");
    servers
}

impl Cluster {
    /// All members started; the first one that leads may not be known yet.
    pub fn start(home: &Path) -> Self {
        let network = Network::new(MEMBERS);
        let all: Vec<String> =
            (0..MEMBERS).map(|place| format!("{}={}", namespace(place), peer_url("http", place))).collect();
        let given = std::env::var("URD_TROUBLE_FLAGS").unwrap_or_default();
        let members = servers().into_iter().enumerate().map(|(number, server)| {
            let disk = Disk::new(home, &namespace(number));
            let mut more = vec![format!("--initial-cluster={}", all.join(","))];
            more.extend(given.split_whitespace().map(str::to_owned));
            let mut member = Member::new(home, number, &namespace(number), &server, "http", more);
            (member.data_dir, member.disk) = (disk.data_dir(), Some(disk));
            member
        });
        let mut cluster = Cluster { members: members.collect(), network };
        cluster.members.iter_mut().for_each(Member::start);
        cluster
    }

    /// Who says of himself that he leads, in the highest term.
    pub async fn leader(&self, access: &Access) -> Option<usize> {
        let mut found = None;
        for member in self.members.iter().filter(|member| member.runs()) {
            let asked = async { access.connect(member.number).await?.status().await };
            if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), asked).await
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                found = found.max(Some((status.raft_term, member.number)));
            }
        }
        found.map(|(_, number)| number)
    }

    /// Everything is mended, and every member runs again.
    pub fn mend(&mut self) {
        self.network.mend();
        for member in &mut self.members {
            member.go_on();
            if !member.runs() {
                member.start();
            }
        }
    }
}

impl Member {
    /// With its data in a folder of its own.
    pub fn new(home: &Path, place: usize, name: &str, server: &Path, scheme: &'static str, more: Vec<String>) -> Self {
        Member {
            number: place,
            name: name.to_owned(),
            server: server.to_owned(),
            scheme,
            data_dir: home.join(format!("{name}.data")),
            more,
            disk: None,
            child: None,
            is_paused: false,
            log: home.join(format!("{name}.log")),
        }
    }

    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("it has one of its own")
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let (place, scheme) = (self.number, self.scheme);
        let client = format!("{scheme}://{}", endpoint(place));
        let log = File::options().create(true).append(true).open(&self.log).expect("the log opens");
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &namespace(place)])
            .arg(&self.server)
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data_dir.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            // Others come through its link, which listens at the address that they are told.
            .arg(format!("--listen-peer-urls={scheme}://127.0.0.1:{PEER_PORT}"))
            .arg(format!("--initial-advertise-peer-urls={}", peer_url(scheme, place)))
            // One executor for clients, as all members share a machine that may have no more than two cores.
            .args((!is_etcd(&self.server)).then_some("--shards=1"))
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the member starts"));
        self.is_paused = false;
    }

    pub fn runs(&self) -> bool {
        self.child.is_some() && !self.is_paused
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
        self.is_paused = false;
    }

    /// SIGTERM. Says whether it has ended by it within its time; else it is killed.
    pub fn stop(&mut self) -> bool {
        signal(self.pid(), "TERM");
        let ended = self.ends_within(PATIENCE);
        self.kill();
        ended
    }

    pub fn pause(&mut self) {
        signal(self.pid(), "STOP");
        self.is_paused = true;
    }

    pub fn go_on(&mut self) {
        if self.is_paused {
            signal(self.pid(), "CONT");
            self.is_paused = false;
        }
    }

    /// Waits for it to end by itself.
    pub fn ends_within(&mut self, patience: Duration) -> bool {
        let begin = Instant::now();
        while let Some(child) = &mut self.child {
            if child.try_wait().expect("a child can be asked").is_some() {
                self.child = None;
                return true;
            }
            if begin.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// All that it has said.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    pub fn last_words(&self, lines: usize) -> String {
        let log = self.said();
        let from = log.lines().count().saturating_sub(lines);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
