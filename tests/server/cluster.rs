//! Several servers of one cluster.

use std::time::{Duration, Instant};

use urd_client::{
    Client,
    etcdserverpb::{HashKvRequest, StatusRequest, StatusResponse},
};

use super::{PATIENCE, Server};

pub struct Cluster {
    pub members: Vec<Server>,
    /// `http` or `https`: how members speak to each other.
    scheme: &'static str,
    more: Vec<String>,
}

impl Cluster {
    pub async fn start(members: usize) -> Self {
        Cluster::start_with(members, "http", &[]).await
    }

    pub async fn start_with(members: usize, scheme: &'static str, more: &[String]) -> Self {
        let mut cluster = Cluster { members: Vec::new(), scheme, more: more.to_vec() };
        cluster.members.extend((0..members).map(|_| Server::prepare(&[])));
        let all = cluster.initial();
        for at in 0..members {
            cluster.place(at, &all, "new");
            cluster.members[at].spawn();
        }
        cluster.wait().await;
        cluster
    }

    /// `--initial-cluster` of all that there are.
    fn initial(&self) -> String {
        let one = |(at, member): (usize, &Server)| format!("m{at}={}://{}", self.scheme, member.peer_address());
        self.members.iter().enumerate().map(one).collect::<Vec<_>>().join(",")
    }

    fn place(&mut self, at: usize, initial: &str, state: &str) {
        let peer = format!("{}://{}", self.scheme, self.members[at].peer_address());
        let member = &mut self.members[at];
        for flag in [
            format!("--name=m{at}"),
            format!("--initial-cluster={initial}"),
            format!("--initial-cluster-state={state}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ] {
            member.add(flag);
        }
        for flag in &self.more {
            member.add(flag.clone());
        }
    }

    /// Prepares one more, which is to join, and gives its peer URL.
    pub fn prepare(&mut self) -> String {
        self.members.push(Server::prepare(&[]));
        let (at, all) = (self.members.len() - 1, self.initial());
        self.place(at, &all, "existing");
        format!("{}://{}", self.scheme, self.members[at].peer_address())
    }

    /// Until each of them answers.
    pub async fn wait(&mut self) {
        for member in &mut self.members {
            assert!(member.is_ready().await, "a member ended at its start:\n{}", member.log());
        }
    }

    pub async fn status(&self, at: usize) -> StatusResponse {
        self.client(at).await.call(&StatusRequest {}).await.expect("a member tells its status")
    }

    pub async fn client(&self, at: usize) -> Client {
        self.members[at].client().await
    }

    /// Who leads, by what `asked` says.
    pub async fn leader(&self, asked: usize) -> usize {
        let begin = Instant::now();
        loop {
            let leader = self.status(asked).await.leader;
            for at in (0..self.members.len()).filter(|at| self.members[*at].runs()) {
                if leader != 0 && self.status(at).await.header.expect("a header").member_id == leader {
                    return at;
                }
            }
            assert!(begin.elapsed() < PATIENCE, "there is no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until all that run hold the same at the newest revision of the first of them.
    pub async fn agree(&self) {
        let begin = Instant::now();
        loop {
            let mut hashes = Vec::new();
            for at in (0..self.members.len()).filter(|at| self.members[*at].runs()) {
                let client = self.client(at).await;
                let revision = client.get("x").await.map_or(0, |got| got.header.expect("a header").revision);
                let hash = client.call(&HashKvRequest { revision }).await;
                hashes.push(hash.map(|told| (told.hash, told.hash_revision, told.compact_revision)).ok());
            }
            if hashes[0].is_some() && hashes.iter().all(|hash| *hash == hashes[0]) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "members differ: {hashes:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
