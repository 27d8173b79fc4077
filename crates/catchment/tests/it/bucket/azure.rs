//! The same in a container of Azurite, the server that Azure's own clients are tested with.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{PIPELINE, add, call, contents, free_port, require_same_as_in_a_folder, undisturbed};
use crate::project::{Killed, Project, oracle, python};
use crate::proxy::{Proxy, Trouble};

/// The account that Azurite has, and its key, as its documentation gives them.
pub(super) const ACCOUNT: &str = "devstoreaccount1";
pub(super) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A blob server with one container.
struct Azurite {
    _process: Killed,
    port: u16,
    _folder: tempfile::TempDir,
}

/// Where `npm` put the servers; `None` when tests are not to compare.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what to compare with")]
fn program() -> Option<PathBuf> {
    python()?;
    let node = std::env::var_os("CATCHMENT_TEST_NODE");
    assert!(node.is_some(), "scripts/test sets CATCHMENT_TEST_NODE");
    Some(PathBuf::from(node?).join("node_modules/.bin/azurite-blob"))
}

impl Azurite {
    fn start(program: &PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"]);
        command.args(["--blobPort", &port.to_string(), "--location"]).arg(folder.path());
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "the server does not come up");
            std::thread::yield_now();
        }
        let server = Self { _process: Killed(process), port, _folder: folder };
        assert_eq!(server.ask(&["make"]), "made\n");
        server
    }

    fn endpoint(port: u16) -> String {
        format!("http://127.0.0.1:{port}/{ACCOUNT}")
    }

    /// Asks a client that is not ours.
    fn ask(&self, arguments: &[&str]) -> String {
        let endpoint = Self::endpoint(self.port);
        let given = [&[endpoint.as_str(), ACCOUNT, KEY], arguments].concat();
        oracle(&python().unwrap(), "azure_blob.py", &given)
    }

    fn hold(&self, project: &Project, port: u16, folder: &str) {
        project.write(
            "catchment.toml",
            format!(
                "[engine]\nthreads = 2\n[storage]\nlake = \"az://container/{folder}\"\n[storage.options]\nendpoint = \"{}\"\nallow_http = \"true\"\n",
                Self::endpoint(port)
            ),
        );
    }
}

#[test]
fn a_lake_in_a_container_is_the_same_as_one_in_a_folder() {
    let Some(program) = program() else { return };
    let server = Azurite::start(&program);
    let there = Project::new(PIPELINE);
    server.hold(&there, server.port, "some/lake");
    let sums = require_same_as_in_a_folder(&there);
    assert_eq!(server.ask(&["count", "az://container/some/lake/cur/t"]).trim(), sums.to_string());
}

#[test]
fn kills_and_troubles_lose_and_repeat_nothing_in_a_container() {
    let Some(program) = program() else { return };
    let server = Azurite::start(&program);
    let expected = undisturbed();
    let mut kills = 0;
    for (number, trouble) in [Trouble::None, Trouble::AnswerLost].into_iter().enumerate() {
        let proxy = Proxy::start(server.port, trouble);
        let project = Project::new(PIPELINE);
        server.hold(&project, proxy.port(), &format!("{trouble:?}"));
        (0..3).for_each(|file| add(&project, file));
        for hits in [5, 12, 19, 26] {
            let fault = format!("any:{}:abort", hits + number * 2);
            kills += usize::from(call(&project, &["run"], &[("CATCHMENT_FAULT", &fault)]).code.is_none());
        }
        (3..6).for_each(|file| add(&project, file));
        call(&project, &["run"], &[]).exits(2);
        assert_eq!(contents(&project), expected, "{trouble:?}");
        assert!(trouble == Trouble::None || proxy.troubled() > 5, "{trouble:?} {}", proxy.troubled());
    }
    assert!(kills >= 5, "{kills} kills of 8");
}

#[test]
fn a_container_that_ignores_conditions_is_refused() {
    let Some(program) = program() else { return };
    let server = Azurite::start(&program);
    for header in ["if-none-match", "if-match"] {
        let proxy = Proxy::start(server.port, Trouble::Pretends(header));
        let project = Project::new(PIPELINE);
        server.hold(&project, proxy.port(), header);
        add(&project, 0);
        let told = call(&project, &["run"], &[]).exits(1);
        assert!(told.err.contains("C4012"), "{}", told.err);
    }
}
