//! Stream sockets, TCP and unix alike: one system call a read, one a write however many buffers it gathers, straight
//! between the caller's memory and the kernel, nothing allocated. Speaks tokio's and hyper's I/O traits, so that gRPC and
//! hyper run on it; never blocks the executor.

use std::{
    cell::Cell,
    fmt,
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    os::{self, RawAddress},
    poller::Registered,
};

/// Where a socket is, or its other side. A unix client has no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Bytes that went through a socket, or through all sockets that share it.
#[derive(Debug, Default)]
pub struct Traffic {
    pub received_bytes: Cell<u64>,
    pub sent_bytes: Cell<u64>,
}

impl Traffic {
    fn received(&self, bytes: usize) {
        self.received_bytes.set(self.received_bytes.get() + bytes as u64);
    }

    fn sent(&self, bytes: usize) {
        self.sent_bytes.set(self.sent_bytes.get() + bytes as u64);
    }
}

/// A socket could not be made to listen: which call said no, and why.
#[derive(Debug)]
pub struct ListenError {
    pub call: &'static str,
    pub source: io::Error,
}

impl ListenError {
    fn of(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| ListenError { call, source }
    }
}

/// A listening socket that belongs to no executor yet.
#[derive(Debug)]
pub struct Bound {
    fd: OwnedFd,
    local: Address,
}

impl Bound {
    /// Listens on a TCP address; port 0 takes a free one. A port in use is an error: SO_REUSEADDR is set, so that a
    /// restart need not wait for old connections to time out. An IPv6 wildcard takes IPv4 too.
    /// `shared`: other sockets may listen there too if they say so (SO_REUSEPORT).
    pub fn inet(address: SocketAddr, backlog: i32, shared: bool) -> Result<Self, ListenError> {
        let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let fd = os::stream_socket(family).map_err(ListenError::of("socket"))?;
        if address.is_ipv6() {
            os::set_option(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)
                .map_err(ListenError::of("setsockopt"))?;
        }
        os::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(ListenError::of("setsockopt"))?;
        if shared {
            os::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
                .map_err(ListenError::of("setsockopt"))?;
        }
        os::bind(fd.as_fd(), &RawAddress::of_inet(address)).map_err(ListenError::of("bind"))?;
        os::listen(fd.as_fd(), backlog).map_err(ListenError::of("listen"))?;
        let local = os::local_address(fd.as_fd()).map_err(ListenError::of("getsockname"))?;
        let local = local.inet().expect("a TCP socket has an IP address");
        Ok(Bound { fd, local: Address::Inet(local) })
    }

    /// Listens on a path, which must not exist.
    pub fn unix(path: &Path, backlog: i32) -> Result<Self, ListenError> {
        let fd = os::stream_socket(libc::AF_UNIX).map_err(ListenError::of("socket"))?;
        let raw = RawAddress::of_path(path).map_err(ListenError::of("bind"))?;
        os::bind(fd.as_fd(), &raw).map_err(ListenError::of("bind"))?;
        os::listen(fd.as_fd(), backlog).map_err(ListenError::of("listen"))?;
        Ok(Bound { fd, local: Address::Unix(path.to_owned()) })
    }

    /// Where it listens, the port that the system chose included.
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// Gives it to this executor, to accept on.
    pub fn adopt(self) -> io::Result<Listening> {
        Ok(Listening { registered: Registered::listening(self.fd)?, local: self.local })
    }
}

/// A listening socket of this executor. Dropping it ends the listening.
pub struct Listening {
    registered: Registered,
    local: Address,
}

impl Listening {
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// The next connection. Errors are those of accept(2): of the connection (ECONNABORTED) or of the system (EMFILE,
    /// ENOMEM); after the latter wait before trying again, nothing else slows the loop down.
    pub async fn accept(&self) -> io::Result<Accepted> {
        std::future::poll_fn(|context| self.registered.poll_read(context, os::accept, |_| true)).await.map(
            |(fd, peer)| {
                let peer = match peer.inet() {
                    Some(address) => Address::Inet(address),
                    None => Address::Unix(PathBuf::from("@")),
                };
                Accepted { fd, peer }
            },
        )
    }
}

/// An open connection on its way to the executor that will serve it. Dropping it closes the connection.
#[derive(Debug)]
pub struct Accepted {
    fd: OwnedFd,
    pub peer: Address,
}

/// A connection of this executor. Dropping it closes the connection.
pub struct Socket {
    registered: Registered,
    traffic: Rc<Traffic>,
    peer: Address,
}

impl Socket {
    /// Takes a connection over; what goes through it is counted in `traffic`.
    pub fn new(accepted: Accepted, traffic: Rc<Traffic>) -> io::Result<Self> {
        let Accepted { fd, peer } = accepted;
        if let Address::Inet(_) = peer {
            // An answer is one write: there is nothing to wait for to send along with it.
            os::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        }
        Ok(Socket { registered: Registered::new(fd)?, traffic, peer })
    }

    /// Opens a connection to an address.
    pub async fn connect(address: Address, traffic: Rc<Traffic>) -> io::Result<Self> {
        let (family, raw) = match &address {
            Address::Inet(inet) if inet.is_ipv6() => (libc::AF_INET6, RawAddress::of_inet(*inet)),
            Address::Inet(inet) => (libc::AF_INET, RawAddress::of_inet(*inet)),
            Address::Unix(path) => (libc::AF_UNIX, RawAddress::of_path(path)?),
        };
        let fd = os::stream_socket(family)?;
        let begun = os::connect(fd.as_fd(), &raw);
        let socket = Socket::new(Accepted { fd, peer: address }, traffic)?;
        match begun {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                socket.registered.wait_until_writable().await?;
                os::take_error(socket.registered.fd())?;
            }
            Err(error) => return Err(error),
        }
        Ok(socket)
    }

    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// This side's address.
    ///
    /// # Errors
    /// The system's.
    pub fn local(&self) -> io::Result<Address> {
        let raw = os::local_address(self.registered.fd())?;
        Ok(match raw.inet() {
            Some(address) => Address::Inet(address),
            None => Address::Unix(raw.path().unwrap_or_default()),
        })
    }

    pub fn traffic(&self) -> &Rc<Traffic> {
        &self.traffic
    }

    /// Receives into `buffer`; its first n bytes are initialized when Ok(n) comes back. 0: the other side has ended.
    pub fn poll_receive(&self, context: &mut Context<'_>, buffer: &mut [MaybeUninit<u8>]) -> Poll<io::Result<usize>> {
        let room = buffer.len();
        // A receive that leaves room has emptied the socket: the next byte is news.
        let received = self.registered.poll_read(context, |fd| os::receive(fd, buffer), |&count| count == room);
        if let Poll::Ready(Ok(count)) = received {
            self.traffic.received(count);
        }
        received
    }

    fn poll_send(&self, context: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let sent = self.registered.poll_write(context, |fd| match buffers {
            [one] => os::send(fd, one),
            several => os::send_vectored(fd, several),
        });
        if let Poll::Ready(Ok(count)) = sent {
            self.traffic.sent(count);
        }
        sent
    }

    /// Ends the sending half; the other half goes on.
    fn end_sending(&self) -> io::Result<()> {
        match os::shutdown_write(self.registered.fd()) {
            // The other side has already closed the whole of it.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // SAFETY: only the first `count` bytes are written, none is made uninitialized.
        let unfilled = unsafe { buffer.unfilled_mut() };
        let count = std::task::ready!(self.poll_receive(context, unfilled))?;
        // SAFETY: poll_receive has initialized that many.
        unsafe { buffer.assume_init(count) };
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is held back here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end_sending())
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
