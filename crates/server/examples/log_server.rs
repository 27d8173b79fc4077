//! The stream log behind its endpoint and nothing else, for benchmarks: `log_server FOLDER [KEY SECRET]`.
//!
//! Prints the address that it listens on. With a key, requests are signed.

#![expect(clippy::print_stdout, reason = "a benchmark is a program")]

use std::path::Path;
use std::sync::Arc;

use catchment_core::{NoFaults, SystemClock};
use catchment_log::{Log, LogOptions};
use catchment_server::{Credentials, Kinesis, KinesisOptions, Services, serve};
use tokio::net::TcpListener;

struct OneKey(String, String);

impl Credentials for OneKey {
    fn secret(&self, access_key: &str) -> Option<Vec<u8>> {
        (access_key == self.0).then(|| self.1.clone().into_bytes())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("log_server FOLDER [KEY SECRET]")?;
    let clock = Arc::new(SystemClock);
    let log =
        Log::open(Path::new(folder), LogOptions::default(), Arc::clone(&clock) as _, Arc::new(NoFaults))?;
    let credentials = match &arguments[1..] {
        [key, secret] => Some(Arc::new(OneKey(key.clone(), secret.clone())) as Arc<dyn Credentials>),
        _ => None,
    };
    let kinesis = Arc::new(Kinesis::new(Arc::new(log), clock, KinesisOptions::default(), credentials));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let services = Services {
        dashboards: Vec::new(),
        page: Arc::new(|_| Box::pin(async { None })),
        kinesis,
        allows_reset: false,
        is_ready: Arc::default(),
        metrics: Arc::new(|| Box::pin(async { String::new() })),
        tables: Arc::new(|_, _| Ok(None)),
    };
    serve(listener, services, std::future::pending()).await?;
    Ok(())
}
