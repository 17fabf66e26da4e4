//! Three members, each a process in a namespace and on a disk of its own, and the ways between them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use urd_client::Client;

use crate::{
    disk::Disk,
    network::{MEMBERS, Network, PEER_PORT, address, namespace},
    server::{PATIENCE, binary, is_reference, signal},
};

pub const CLIENT_PORT: u16 = 2379;

pub struct Member {
    pub number: usize,
    pub disk: Disk,
    child: Option<Child>,
    is_paused: bool,
    log: PathBuf,
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub network: Network,
}

/// `host:port` for clients.
pub fn endpoint(member: usize) -> String {
    format!("{}:{CLIENT_PORT}", address(member))
}

impl Cluster {
    /// All members started; the first one that leads may not be known yet.
    pub fn start(home: &Path) -> Self {
        let network = Network::new();
        let members = (0..MEMBERS).map(|number| Member {
            number,
            disk: Disk::new(home, &namespace(number)),
            child: None,
            is_paused: false,
            log: home.join(format!("{}.log", namespace(number))),
        });
        let mut cluster = Cluster { members: members.collect(), network };
        cluster.members.iter_mut().for_each(Member::start);
        cluster
    }

    /// Who says of himself that he leads, in the highest term.
    pub async fn leader(&self) -> Option<usize> {
        let mut found = None;
        for member in self.members.iter().filter(|member| member.runs()) {
            let asked = async { Client::connect(&endpoint(member.number)).await?.status().await };
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
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let (own, name) = (address(self.number), namespace(self.number));
        let peer = |member: usize| format!("http://{}:{PEER_PORT}", address(member));
        let all: Vec<String> = (0..MEMBERS).map(|member| format!("{}={}", namespace(member), peer(member))).collect();
        let client = format!("http://{own}:{CLIENT_PORT}");
        let log = File::options().create(true).append(true).open(&self.log).expect("the log opens");
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &name])
            .arg(binary())
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", self.disk.data_dir().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            // Others come through its link, which listens at the address that they are told.
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{PEER_PORT}"))
            .arg(format!("--initial-advertise-peer-urls={}", peer(self.number)))
            .arg(format!("--initial-cluster={}", all.join(",")))
            .args(flags())
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

    /// The last lines of its log.
    pub fn last_words(&self, lines: usize) -> String {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let from = log.lines().count().saturating_sub(lines);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Further flags: one executor for clients, as all members share a machine that may have no more than two.
fn flags() -> Vec<String> {
    let own = if is_reference() { "" } else { "--shards=1" };
    let given = std::env::var("URD_TROUBLE_FLAGS").unwrap_or_default();
    own.split_whitespace().chain(given.split_whitespace()).map(str::to_owned).collect()
}
