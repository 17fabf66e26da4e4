use std::{cell::RefCell, rc::Rc};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::{executors::run_one, socket::Socket, spawn_with_handle, yield_now};

fn port(listener: &Listener) -> u16 {
    match listener.local() {
        Address::Inet(address) => address.port(),
        Address::Unix(path) => panic!("{path:?} has no port"),
    }
}

#[test]
fn a_port_is_shared_by_those_who_all_say_so() {
    let first = Listener::bind_with("http://127.0.0.1:0", true).unwrap();
    let url = format!("http://{}", first.local());
    Listener::bind_with(&url, true).unwrap();
    assert!(Listener::bind(&url).is_err());
}

#[test]
fn a_port_in_use_is_an_error_in_gos_words() {
    let first = Listener::bind("http://127.0.0.1:0").unwrap();
    let port = port(&first);
    let error = Listener::bind(&format!("http://127.0.0.1:{port}")).unwrap_err();
    assert_eq!(error.to_string(), format!("listen tcp 127.0.0.1:{port}: bind: address already in use"));
    let error = Listener::bind(&format!("http://localhost:{port}")).unwrap_err();
    assert_eq!(error.to_string(), format!("listen tcp 127.0.0.1:{port}: bind: address already in use"));
    drop(first);
    Listener::bind(&format!("http://127.0.0.1:{port}")).unwrap();
}

#[test]
fn addresses_are_understood_as_go_understands_them() {
    let listens_on = |url: &str| match Listener::bind(url).unwrap().local() {
        Address::Inet(address) => address.ip().to_string(),
        Address::Unix(path) => path.display().to_string(),
    };
    assert_eq!(listens_on("http://127.0.0.1:0"), "127.0.0.1");
    assert_eq!(listens_on("http://[::1]:0"), "::1");
    assert_eq!(listens_on("https://localhost:0"), "127.0.0.1");
    // A wildcard of either family takes both.
    for all in ["http://0.0.0.0:0", "http://[::]:0", "http://:0"] {
        assert_eq!(listens_on(all), "::");
    }
}

#[test]
fn what_cannot_be_listened_on_is_said() {
    let error = |url: &str| Listener::bind(url).unwrap_err().to_string();
    assert_eq!(error("http://192.0.2.1:2379"), "listen tcp 192.0.2.1:2379: bind: cannot assign requested address");
    assert_eq!(error("http://no.such.host.invalid:1"), "listen tcp: lookup no.such.host.invalid: no such host");
    assert_eq!(error("unix:///no/such/place"), "listen unix /no/such/place: bind: no such file or directory");
    for url in ["localhost:2379", "http://localhost", "http://localhost:port", "ftp://localhost:1", "unix://"] {
        assert!(error(url).starts_with("cannot listen on "), "{url}");
    }
}

#[test]
fn a_socket_left_at_a_path_is_replaced_and_removed_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.sock");
    let url = format!("unix://{}", path.display());
    // What a killed server leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&url).unwrap();
    assert_eq!(listener.local(), &Address::Unix(path.clone()));
    assert!(path.exists());
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn connections_go_to_the_least_loaded_shard() {
    run_one(|| async {
        let listener = Listener::bind("http://127.0.0.1:0").unwrap();
        let address = listener.local().clone();
        let seats = Seats::new(2, 100);
        let arrivals = Rc::new(RefCell::new(Vec::new()));
        let (kept, counted) = (arrivals.clone(), seats.clone());
        let acceptor = spawn_with_handle(async move {
            listener.accept_all(counted, move |arrival| kept.borrow_mut().push(arrival)).await
        });
        let mut clients = Vec::new();
        for number in 1..=6 {
            clients.push(Socket::connect(address.clone(), Rc::default()).await.unwrap());
            while seats.taken() < number {
                yield_now().await;
            }
        }
        assert_eq!([seats.of_shard(0), seats.of_shard(1)], [3, 3]);
        arrivals.borrow_mut().retain(|arrival| arrival.seat.shard() == 0);
        clients.push(Socket::connect(address.clone(), Rc::default()).await.unwrap());
        while seats.taken() < 4 {
            yield_now().await;
        }
        assert_eq!([seats.of_shard(0), seats.of_shard(1)], [3, 1]);
        drop(acceptor);
        yield_now().await;
        let error = Socket::connect(address, Rc::default()).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "dropping the acceptor ends the listening");
    })
    .unwrap();
}

/// A connection beyond the bound waits in the kernel's queue and is served when another one ends.
#[test]
fn a_full_server_lets_clients_wait() {
    run_one(|| async {
        let listener = Listener::bind("http://127.0.0.1:0").unwrap();
        let address = listener.local().clone();
        let seats = Seats::new(1, 2);
        let _acceptor = spawn_with_handle(async move {
            listener
                .accept_all(seats, |Arrival { accepted, seat }| {
                    runtime::spawn(async move {
                        let mut socket = Socket::new(accepted, Rc::default()).unwrap();
                        let mut word = [0; 4];
                        while socket.read_exact(&mut word).await.is_ok() {
                            socket.write_all(&word).await.unwrap();
                        }
                        drop(seat);
                    });
                })
                .await
        });
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Socket::connect(address.clone(), Rc::default()).await.unwrap();
            client.write_all(b"ping").await.unwrap();
            clients.push(client);
        }
        let mut third = clients.pop().unwrap();
        for client in &mut clients {
            client.read_exact(&mut [0; 4]).await.unwrap();
        }
        let mut word = [0; 4];
        let waited = runtime::timeout(Duration::from_millis(50), third.read_exact(&mut word)).await;
        assert!(waited.is_none(), "there are two seats");
        clients.pop();
        third.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
    })
    .unwrap();
}
