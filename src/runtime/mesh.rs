//! The way between cores: each peer has a queue to each other, of fixed size and without locks, and one to itself.
//! Sending never waits and never loses mail; what does not fit stays with the sender, in order, until it does.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    task::{Context, Poll, Waker},
};

use futures_util::task::AtomicWaker;

use crate::limits;

/// The queues of all peers, before these have taken their ends. Clones are the same mesh.
pub struct Mesh<T: Send + 'static> {
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Clone for Mesh<T> {
    fn clone(&self) -> Self {
        Mesh { shared: self.shared.clone() }
    }
}

struct Shared<T: Send + 'static> {
    gathering: Mutex<Gathering<T>>,
}

/// Who has joined, and who waits for the others.
struct Gathering<T: Send + 'static> {
    ends: Vec<Option<Ends<T>>>,
    missing: usize,
    waiting: Vec<Waker>,
}

/// One peer's ends, by the peer at the other; none to itself.
struct Ends<T: Send + 'static> {
    outward: Vec<Option<Outward<T>>>,
    inward: Vec<Option<Inward<T>>>,
    /// Wakes this peer's reader.
    reader: Arc<AtomicWaker>,
}

struct Outward<T> {
    sender: SyncSender<T>,
    /// The reader at the other end.
    reader: Arc<AtomicWaker>,
    /// Wakes who waits here for room.
    room: Arc<AtomicWaker>,
}

struct Inward<T> {
    receiver: Receiver<T>,
    room: Arc<AtomicWaker>,
}

impl<T: Send + 'static> Mesh<T> {
    pub fn new(peers: usize) -> Self {
        assert!(peers > 0, "a mesh has peers");
        let none = || Ends {
            outward: (0..peers).map(|_| None).collect(),
            inward: (0..peers).map(|_| None).collect(),
            reader: Arc::default(),
        };
        let mut ends: Vec<Ends<T>> = (0..peers).map(|_| none()).collect();
        for from in 0..peers {
            for to in (0..peers).filter(|&to| to != from) {
                let (sender, receiver) = sync_channel(limits::MESH_SLOTS);
                let room = Arc::<AtomicWaker>::default();
                let reader = ends[to].reader.clone();
                ends[from].outward[to] = Some(Outward { sender, reader, room: room.clone() });
                ends[to].inward[from] = Some(Inward { receiver, room });
            }
        }
        let ends = ends.into_iter().map(Some).collect();
        Mesh { shared: Arc::new(Shared { gathering: Mutex::new(Gathering { ends, missing: peers, waiting: vec![] }) }) }
    }

    /// Takes the ends of peer `id` to this executor, once; waits until all other peers have joined on theirs.
    pub async fn join(&self, id: usize) -> Port<T> {
        let Ends { outward, inward, reader } = self.shared.enter(id);
        poll_fn(|context| self.shared.poll_complete(context)).await;

        let own = Rc::new(Own { letters: RefCell::default(), reader: reader.clone() });
        let outlets = outward.into_iter().map(|outward| match outward {
            Some(outward) => {
                Outlet::Peer(Rc::new(Outgoing { outward, overflow: RefCell::default(), moving: Cell::default() }))
            }
            None => Outlet::Own(own.clone()),
        });
        let inlets = inward.into_iter().map(|inward| match inward {
            Some(inward) => Inlet::Peer(inward),
            None => Inlet::Own(own.clone()),
        });
        Port { id, outlets: outlets.collect(), inlets: inlets.collect(), reader, turn: Cell::default() }
    }
}

impl<T: Send + 'static> Shared<T> {
    fn enter(&self, id: usize) -> Ends<T> {
        let mut gathering = self.gathering.lock().expect("nothing panics under this lock");
        let ends = gathering.ends[id].take();
        gathering.missing -= usize::from(ends.is_some());
        if gathering.missing == 0 {
            gathering.waiting.drain(..).for_each(Waker::wake);
        }
        drop(gathering);
        ends.expect("a peer joins once")
    }

    fn poll_complete(&self, context: &Context<'_>) -> Poll<()> {
        let mut gathering = self.gathering.lock().expect("nothing panics under this lock");
        if gathering.missing == 0 {
            return Poll::Ready(());
        }
        gathering.waiting.push(context.waker().clone());
        Poll::Pending
    }
}

/// A peer's place in the mesh.
pub struct Port<T: Send + 'static> {
    id: usize,
    outlets: Vec<Outlet<T>>,
    inlets: Vec<Inlet<T>>,
    reader: Arc<AtomicWaker>,
    /// Whose mail is looked at first.
    turn: Cell<usize>,
}

impl<T: Send + 'static> Port<T> {
    pub fn id(&self) -> usize {
        self.id
    }

    pub fn peers(&self) -> usize {
        self.outlets.len()
    }

    /// Sends to a peer, itself included. Mail to one peer arrives in the order in which it was sent; mail to a peer
    /// that has ended is dropped. What a slow peer has not taken waits here, without bound: senders are bounded by
    /// what they let be in flight.
    pub fn send(&self, to: usize, mail: T) {
        match &self.outlets[to] {
            Outlet::Peer(outgoing) => outgoing.send(mail),
            Outlet::Own(own) => own.send(mail),
        }
    }

    /// Letters that wait here because the peer's queue is full.
    pub fn overflow(&self, to: usize) -> usize {
        match &self.outlets[to] {
            Outlet::Peer(outgoing) => outgoing.overflow.borrow().len(),
            Outlet::Own(_) => 0,
        }
    }

    /// The next letter and who sent it; peers that have mail take turns. Only one task may wait at a time.
    pub async fn recv(&self) -> (usize, T) {
        poll_fn(|context| self.poll_recv(context)).await
    }

    pub fn poll_recv(&self, context: &mut Context<'_>) -> Poll<(usize, T)> {
        if let Some(letter) = self.take() {
            return Poll::Ready(letter);
        }
        self.reader.register(context.waker());
        // What came before the waker was there woke nobody.
        match self.take() {
            Some(letter) => Poll::Ready(letter),
            None => Poll::Pending,
        }
    }

    /// Looks into every queue, some nanoseconds each where nothing has come: a machine of 64 cores would spend on all
    /// of them a tenth of what it costs to be woken.
    fn take(&self) -> Option<(usize, T)> {
        let peers = self.inlets.len();
        (self.turn.get()..peers).chain(0..self.turn.get()).find_map(|from| {
            let mail = self.inlets[from].take()?;
            self.turn.set((from + 1) % peers);
            Some((from, mail))
        })
    }
}

enum Outlet<T: Send + 'static> {
    Peer(Rc<Outgoing<T>>),
    Own(Rc<Own<T>>),
}

struct Outgoing<T: Send + 'static> {
    outward: Outward<T>,
    /// What did not fit, oldest first.
    overflow: RefCell<VecDeque<T>>,
    /// A task is moving the overflow: nothing may overtake it.
    moving: Cell<bool>,
}

impl<T: Send + 'static> Outgoing<T> {
    fn send(self: &Rc<Self>, mail: T) {
        if self.moving.get() {
            return self.overflow.borrow_mut().push_back(mail);
        }
        if let Err(mail) = self.outward.try_send(mail) {
            self.overflow.borrow_mut().push_back(mail);
            self.moving.set(true);
            super::spawn(self.clone().move_overflow());
        }
    }

    async fn move_overflow(self: Rc<Self>) {
        poll_fn(|context| {
            self.outward.room.register(context.waker());
            // Room that was made before the waker was there woke nobody: try again.
            loop {
                let Some(mail) = self.overflow.borrow_mut().pop_front() else { return Poll::Ready(()) };
                if let Err(mail) = self.outward.try_send(mail) {
                    self.overflow.borrow_mut().push_front(mail);
                    return Poll::Pending;
                }
            }
        })
        .await;
        self.moving.set(false);
    }
}

impl<T> Outward<T> {
    /// Gives the mail back if there is no room for it.
    fn try_send(&self, mail: T) -> Result<(), T> {
        match self.sender.try_send(mail) {
            Ok(()) => {
                self.reader.wake();
                Ok(())
            }
            Err(TrySendError::Full(mail)) => Err(mail),
            // The peer has ended; this is for nobody.
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

/// The end of a peer makes room for all that is still to be sent to it.
impl<T> Drop for Inward<T> {
    fn drop(&mut self) {
        // The receiver goes after this; who looks before that waits for it.
        let (_, gone) = sync_channel(0);
        drop(std::mem::replace(&mut self.receiver, gone));
        self.room.wake();
    }
}

/// The way to oneself.
struct Own<T> {
    letters: RefCell<VecDeque<T>>,
    reader: Arc<AtomicWaker>,
}

impl<T> Own<T> {
    fn send(&self, mail: T) {
        self.letters.borrow_mut().push_back(mail);
        self.reader.wake();
    }
}

enum Inlet<T: Send + 'static> {
    Peer(Inward<T>),
    Own(Rc<Own<T>>),
}

impl<T: Send + 'static> Inlet<T> {
    fn take(&self) -> Option<T> {
        match self {
            Inlet::Peer(inward) => {
                let mail = inward.receiver.try_recv().ok()?;
                inward.room.wake();
                Some(mail)
            }
            Inlet::Own(own) => own.letters.borrow_mut().pop_front(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executors::{self, Placement};

    const LETTERS: u64 = 100_000;

    /// Everybody sends LETTERS to everybody, itself included; all arrive, each peer's in order.
    fn everybody_writes_to_everybody(peers: usize) {
        let mesh = Mesh::<(u64, Vec<u8>)>::new(peers);
        let run = executors::run(&Placement::new(peers).unwrap(), move |id| {
            let mesh = mesh.clone();
            async move {
                let port = Rc::new(mesh.join(id).await);
                let writer = port.clone();
                crate::runtime::spawn(async move {
                    for number in 0..LETTERS {
                        for to in 0..writer.peers() {
                            writer.send(to, (number, vec![id as u8]));
                        }
                        // Bursts larger than the queues, so that the overflow is used.
                        if number % 1000 == 999 {
                            crate::runtime::yield_now().await;
                        }
                    }
                });
                let mut next = vec![0; peers];
                for _ in 0..LETTERS * peers as u64 {
                    let (from, (number, sender)) = port.recv().await;
                    assert_eq!(sender, [from as u8]);
                    assert_eq!(number, next[from]);
                    next[from] += 1;
                }
                assert_eq!(next, vec![LETTERS; peers]);
                // Stay until all that this peer sent has been taken.
                while (0..peers).any(|to| port.overflow(to) > 0) {
                    crate::runtime::yield_now().await;
                }
                id
            }
        });
        assert_eq!(run.unwrap(), (0..peers).collect::<Vec<_>>());
    }

    #[test]
    fn one_peer_writes_to_itself() {
        everybody_writes_to_everybody(1);
    }

    #[test]
    fn two_peers() {
        everybody_writes_to_everybody(2);
    }

    #[test]
    fn three_peers() {
        everybody_writes_to_everybody(3);
    }

    #[test]
    fn what_does_not_fit_waits_with_the_sender() {
        let burst = limits::MESH_SLOTS as u64 * 3;
        let mesh = Mesh::<u64>::new(2);
        // Holds the receiver's whole core until all is sent.
        let sent = Arc::new(std::sync::Barrier::new(2));
        executors::run(&Placement::new(2).unwrap(), move |id| {
            let (mesh, sent) = (mesh.clone(), sent.clone());
            async move {
                let port = mesh.join(id).await;
                if id == 0 {
                    (0..burst).for_each(|number| port.send(1, number));
                    assert!(port.overflow(1) > limits::MESH_SLOTS, "{}", port.overflow(1));
                    sent.wait();
                    assert_eq!(port.recv().await, (1, burst));
                } else {
                    sent.wait();
                    for number in 0..burst {
                        assert_eq!(port.recv().await, (0, number));
                    }
                    port.send(0, burst);
                }
            }
        })
        .unwrap();
    }

    #[test]
    fn a_flood_from_one_peer_does_not_starve_another() {
        let mesh = Mesh::<bool>::new(2);
        executors::run(&Placement::new(2).unwrap(), move |id| {
            let mesh = mesh.clone();
            async move {
                let port = mesh.join(id).await;
                if id == 1 {
                    return port.send(0, true);
                }
                // Each own letter begets another: there is always one waiting.
                port.send(0, false);
                while port.recv().await != (1, true) {
                    port.send(0, false);
                    crate::runtime::yield_now().await;
                }
            }
        })
        .unwrap();
    }
}
