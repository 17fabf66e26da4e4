use std::{io::IoSlice, rc::Rc};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::{executors::run_one, spawn, spawn_with_handle, yield_now};

/// A connected pair: the accepted side, the connecting side.
async fn pair(bound: Bound) -> (Socket, Socket) {
    let address = bound.local().clone();
    let listening = bound.adopt().unwrap();
    let connecting = spawn_with_handle(Socket::connect(address, Rc::default()));
    let accepted = Socket::new(listening.accept().await.unwrap(), Rc::default()).unwrap();
    (accepted, connecting.await.unwrap())
}

fn loopback() -> Bound {
    Bound::inet("127.0.0.1:0".parse().unwrap(), crate::limits::LISTEN_BACKLOG, false).unwrap()
}

fn on_each_kind<F: Future<Output = ()> + 'static>(test: impl Fn(Socket, Socket) -> F + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    run_one(move || async move {
        let unix = Bound::unix(&dir.path().join("socket"), 16).unwrap();
        let v6 = Bound::inet("[::1]:0".parse().unwrap(), 16, false).unwrap();
        for bound in [loopback(), v6, unix] {
            let (server, client) = pair(bound).await;
            test(server, client).await;
        }
    })
    .unwrap();
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|index| ((index + seed) * 131 % 251) as u8).collect()
}

#[test]
fn small_messages_go_there_and_back() {
    on_each_kind(|mut server, mut client| async move {
        spawn(async move {
            let mut buffer = [0; 64];
            loop {
                match server.read(&mut buffer).await.unwrap() {
                    0 => break,
                    count => server.write_all(&buffer[..count]).await.unwrap(),
                }
            }
        });
        for round in 0..1000u32 {
            client.write_all(&round.to_be_bytes()).await.unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(u32::from_be_bytes(answer), round);
        }
        assert_eq!(client.traffic().sent_bytes.get(), 4000);
        assert_eq!(client.traffic().received_bytes.get(), 4000);
    });
}

/// Both sides send at once far more than the kernel buffers: each direction blocks and goes on.
#[test]
fn much_goes_both_ways_at_once() {
    const LEN: usize = 24 << 20;
    on_each_kind(|server, client| async move {
        let sides = [(server, 1), (client, 2)].map(|(socket, seed)| {
            spawn_with_handle(async move {
                let (mut receiving, mut sending) = tokio::io::split(socket);
                let sender = spawn_with_handle(async move {
                    sending.write_all(&pattern(seed, LEN)).await.unwrap();
                    sending.shutdown().await.unwrap();
                });
                let mut received = Vec::new();
                receiving.read_to_end(&mut received).await.unwrap();
                sender.await;
                received
            })
        });
        let [to_server, to_client] = sides;
        assert!(to_server.await == pattern(2, LEN));
        assert!(to_client.await == pattern(1, LEN));
    });
}

#[test]
fn a_side_that_has_ended_sending_still_receives() {
    on_each_kind(|mut server, mut client| async move {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    });
}

/// The end arrives together with the last bytes, before the reader looks: one edge tells both.
#[test]
fn an_end_that_came_with_the_bytes_is_seen() {
    on_each_kind(|mut server, mut client| async move {
        let mut buffer = [0; 64];
        let reader = spawn_with_handle(async move {
            let first = server.read(&mut buffer).await.unwrap();
            let second = server.read(&mut buffer).await.unwrap();
            (first, second)
        });
        // The reader waits.
        yield_now().await;
        client.write_all(b"last words").await.unwrap();
        drop(client);
        assert_eq!(reader.await, (10, 0));
    });
}

#[test]
fn dropping_a_socket_closes_it() {
    on_each_kind(|server, mut client| async move {
        drop(server);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        // The first write may still be taken; the answer to it is a reset.
        let error = loop {
            match client.write(b"anybody?").await {
                Ok(_) => yield_now().await,
                Err(error) => break error,
            }
        };
        assert!(matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{error}");
    });
}

#[test]
fn several_buffers_go_with_one_write() {
    on_each_kind(|mut server, mut client| async move {
        assert!(AsyncWrite::is_write_vectored(&client));
        let parts: Vec<Vec<u8>> = (0..2000).map(|seed| pattern(seed, 3)).collect();
        let slices: Vec<IoSlice> = parts.iter().map(|part| IoSlice::new(part)).collect();
        // More than the kernel takes at once: what it takes is told.
        let sent = client.write_vectored(&slices).await.unwrap();
        assert_eq!(sent, 3 * crate::limits::SEND_BUFFERS_MAX);
        let mut received = vec![0; sent];
        server.read_exact(&mut received).await.unwrap();
        assert!(received == parts.concat()[..sent]);
    });
}

/// A peer that does not read holds back its writer, and nobody else on the executor.
#[test]
fn a_full_socket_waits_for_room() {
    on_each_kind(|mut server, mut client| async move {
        const LEN: usize = 16 << 20;
        let writer = spawn_with_handle(async move {
            server.write_all(&pattern(0, LEN)).await.unwrap();
            server
        });
        let mut received = Vec::new();
        let mut buffer = vec![0; 10_000];
        while received.len() < LEN {
            let count = client.read(&mut buffer).await.unwrap();
            received.extend_from_slice(&buffer[..count]);
            yield_now().await;
        }
        assert!(received == pattern(0, LEN));
        drop(writer.await);
    });
}

/// The other side has ended sending, which the kernel tells whoever waits for room: that is not room.
#[test]
fn a_full_socket_waits_for_room_beyond_the_other_sides_end() {
    on_each_kind(|mut server, mut client| async move {
        const LEN: usize = 16 << 20;
        client.shutdown().await.unwrap();
        let writer = spawn_with_handle(async move {
            server.write_all(&pattern(0, LEN)).await.unwrap();
            server
        });
        // The writer has filled the socket and waits.
        for _ in 0..100 {
            yield_now().await;
        }
        let mut received = vec![0; LEN];
        client.read_exact(&mut received).await.unwrap();
        assert!(received == pattern(0, LEN));
        drop(writer.await);
    });
}

#[test]
fn nobody_listening_is_an_error() {
    run_one(|| async {
        let address = loopback().local().clone();
        let error = Socket::connect(address, Rc::default()).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    })
    .unwrap();
}

/// Without the executor having its turn: nothing in the kernel may hold what listens.
#[test]
fn an_address_is_free_as_soon_as_nobody_listens() {
    run_one(|| async {
        let listening = loopback().adopt().unwrap();
        let Address::Inet(address) = listening.local().clone() else { unreachable!() };
        for _ in 0..3 {
            yield_now().await;
        }
        drop(listening);
        drop(Bound::inet(address, 16, false).unwrap());
    })
    .unwrap();
}

#[test]
fn many_connections_are_served_at_once() {
    const CONNECTIONS: usize = 600;
    run_one(|| async {
        let listening = loopback().adopt().unwrap();
        let address = listening.local().clone();
        spawn(async move {
            for _ in 0..CONNECTIONS {
                let mut socket = Socket::new(listening.accept().await.unwrap(), Rc::default()).unwrap();
                spawn(async move {
                    let mut word = [0; 8];
                    while socket.read_exact(&mut word).await.is_ok() {
                        socket.write_all(&word).await.unwrap();
                    }
                });
            }
        });
        let clients: Vec<_> = (0..CONNECTIONS as u64)
            .map(|number| {
                let address = address.clone();
                spawn_with_handle(async move {
                    let mut socket = Socket::connect(address, Rc::default()).await.unwrap();
                    for round in 0..20 {
                        let word = (number << 32 | round).to_be_bytes();
                        socket.write_all(&word).await.unwrap();
                        let mut answer = [0; 8];
                        socket.read_exact(&mut answer).await.unwrap();
                        assert_eq!(answer, word);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
    })
    .unwrap();
}

#[test]
fn a_connection_can_be_served_by_another_executor_than_accepted_it() {
    use crate::runtime::{
        executors::{Placement, run},
        mesh::Mesh,
    };
    let mesh = Mesh::<Accepted>::new(2);
    run(&Placement::new(2).unwrap(), move |id| {
        let mesh = mesh.clone();
        async move {
            let port = mesh.join(id).await;
            if id == 1 {
                let (_, accepted) = port.recv().await;
                let mut socket = Socket::new(accepted, Rc::default()).unwrap();
                socket.write_all(b"from the other core").await.unwrap();
                return;
            }
            let listening = loopback().adopt().unwrap();
            let mut client = Socket::connect(listening.local().clone(), Rc::default()).await.unwrap();
            port.send(1, listening.accept().await.unwrap());
            let mut words = String::new();
            client.read_to_string(&mut words).await.unwrap();
            assert_eq!(words, "from the other core");
        }
    })
    .unwrap();
}
