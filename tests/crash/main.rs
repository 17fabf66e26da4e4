//! Kills the server with SIGKILL under load, again and again, and proves each time that nothing acknowledged is lost,
//! nothing is done twice, and history is what it was. In a third of its lives the store is compacted and defragmented
//! meanwhile. `URD_CRASH_KILLS` sets how often (100), `URD_SEED` what is drawn.

mod checker;
mod keeper;
mod load;
#[path = "../server/mod.rs"]
mod server;
mod trial;

use std::time::Duration;

use server::Server;
use trial::{Trial, variable};

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let (kills, seed) = (variable("URD_CRASH_KILLS", 100), variable("URD_SEED", 1));
    let mut trial = Trial::new(Server::start().await, seed);
    let mut at_start = 0;
    for kill in 1..=kills {
        trial
            .live_and_die(200, async |server, random| {
                server.kill();
                if random.below(5) == 0 {
                    // And once more while it starts.
                    at_start += 1;
                    server.spawn();
                    tokio::time::sleep(Duration::from_millis(random.below(60))).await;
                    server.kill();
                }
            })
            .await;
        if kill % 25 == 0 {
            trial.compact().await;
        }
    }
    trial.conclude(kills + at_start, seed, "kills").await;
}
