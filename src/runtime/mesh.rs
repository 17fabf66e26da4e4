//! The way between cores: each peer has a queue to each other, of fixed size and without locks, and one to itself.
//! Sending never waits and never loses mail; what does not fit stays with the sender, in order, until it does.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use futures_util::{
    Stream, StreamExt,
    future::{join, join_all},
    stream::SelectAll,
};
use glommio::{
    GlommioError, ResourceType,
    channels::shared_channel::{self, ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender},
};

use crate::limits;

/// The queues of all peers, before these have taken their ends. Clones are the same mesh.
pub struct Mesh<T: Send + 'static> {
    ends: Arc<Mutex<Vec<Option<Ends<T>>>>>,
}

impl<T: Send + 'static> Clone for Mesh<T> {
    fn clone(&self) -> Self {
        Mesh { ends: self.ends.clone() }
    }
}

/// One peer's ends, by the peer at the other; none to itself.
struct Ends<T: Send + 'static> {
    outward: Vec<Option<SharedSender<T>>>,
    inward: Vec<Option<SharedReceiver<T>>>,
}

impl<T: Send + 'static> Mesh<T> {
    pub fn new(peers: usize) -> Self {
        assert!(peers > 0, "a mesh has peers");
        let none = || Ends { outward: (0..peers).map(|_| None).collect(), inward: (0..peers).map(|_| None).collect() };
        let mut ends: Vec<Ends<T>> = (0..peers).map(|_| none()).collect();
        for from in 0..peers {
            for to in (0..peers).filter(|&to| to != from) {
                let (sender, receiver) = shared_channel::new_bounded(limits::MESH_SLOTS);
                ends[from].outward[to] = Some(sender);
                ends[to].inward[from] = Some(receiver);
            }
        }
        Mesh { ends: Arc::new(Mutex::new(ends.into_iter().map(Some).collect())) }
    }

    /// Takes the ends of peer `id` to this executor, once; waits until all other peers have joined on theirs.
    pub async fn join(&self, id: usize) -> Port<T> {
        let taken = self.ends.lock().expect("nothing panics under this lock")[id].take();
        let Ends { outward, inward } = taken.expect("a peer joins once");
        let outward = outward.into_iter().map(|end| async { Some(end?.connect().await) });
        let inward = inward.into_iter().map(|end| async { Some(end?.connect().await) });
        // Each side waits for the other: all at once, or peers that begin with different ones wait for ever.
        let (outward, inward) = join(join_all(outward), join_all(inward)).await;

        let own = Rc::new(Own { letters: RefCell::default(), reader: Cell::default() });
        let outlets = outward.into_iter().map(|sender| match sender {
            Some(sender) => {
                Outlet::Peer(Rc::new(Outgoing { sender, overflow: RefCell::default(), moving: Cell::default() }))
            }
            None => Outlet::Own(own.clone()),
        });
        let inlets = inward.into_iter().enumerate().map(|(from, receiver)| match receiver {
            Some(receiver) => Inlet { from, source: Source::Peer(receiver) },
            None => Inlet { from, source: Source::Own(own.clone()) },
        });
        Port { id, outlets: outlets.collect(), inlets: RefCell::new(inlets.collect()) }
    }
}

/// A peer's place in the mesh.
pub struct Port<T: Send + 'static> {
    id: usize,
    outlets: Vec<Outlet<T>>,
    inlets: RefCell<SelectAll<Inlet<T>>>,
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
            Outlet::Peer(outgoing) => outgoing.clone().send(mail),
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
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    pub fn poll_recv(&self, context: &mut Context<'_>) -> Poll<(usize, T)> {
        match self.inlets.borrow_mut().poll_next_unpin(context) {
            Poll::Ready(letter) => Poll::Ready(letter.expect("the way to oneself never ends")),
            Poll::Pending => Poll::Pending,
        }
    }
}

enum Outlet<T: Send + 'static> {
    Peer(Rc<Outgoing<T>>),
    Own(Rc<Own<T>>),
}

struct Outgoing<T: Send + 'static> {
    sender: ConnectedSender<T>,
    /// What did not fit, oldest first.
    overflow: RefCell<VecDeque<T>>,
    /// A task is moving the overflow: nothing may overtake it.
    moving: Cell<bool>,
}

impl<T: Send + 'static> Outgoing<T> {
    fn send(self: Rc<Self>, mail: T) {
        if self.moving.get() {
            return self.overflow.borrow_mut().push_back(mail);
        }
        if let Err(GlommioError::WouldBlock(ResourceType::Channel(mail))) = self.sender.try_send(mail) {
            self.overflow.borrow_mut().push_back(mail);
            self.moving.set(true);
            super::spawn(self.move_overflow());
        }
    }

    async fn move_overflow(self: Rc<Self>) {
        loop {
            let Some(mail) = self.overflow.borrow_mut().pop_front() else { break };
            if self.sender.send(mail).await.is_err() {
                // The peer has ended; what is left is for nobody.
                self.overflow.borrow_mut().clear();
            }
        }
        self.moving.set(false);
    }
}

/// The way to oneself.
struct Own<T> {
    letters: RefCell<VecDeque<T>>,
    reader: Cell<Option<Waker>>,
}

impl<T> Own<T> {
    fn send(&self, mail: T) {
        self.letters.borrow_mut().push_back(mail);
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

/// What comes from one peer. A stream, so that SelectAll polls only those that have news: each poll of a glommio
/// receiver that has none leaves a waker behind.
struct Inlet<T: Send + 'static> {
    from: usize,
    source: Source<T>,
}

enum Source<T: Send + 'static> {
    Peer(ConnectedReceiver<T>),
    Own(Rc<Own<T>>),
}

impl<T: Send + 'static> Stream for Inlet<T> {
    type Item = (usize, T);

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<(usize, T)>> {
        let this = self.get_mut();
        let mail = match &mut this.source {
            Source::Peer(receiver) => std::task::ready!(receiver.poll_next_unpin(context)),
            Source::Own(own) => {
                let mail = own.letters.borrow_mut().pop_front();
                if mail.is_none() {
                    own.reader.set(Some(context.waker().clone()));
                    return Poll::Pending;
                }
                mail
            }
        };
        Poll::Ready(mail.map(|mail| (this.from, mail)))
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
