//! Runs the binary `chc` in a fresh directory and keeps everything it says.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The binary beside this test's own executable (`target/PROFILE/deps/TEST`).
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its executable");
    let name = format!("chc{}", std::env::consts::EXE_SUFFIX);
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(&name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no {name} near {}: run `cargo build --workspace --bins` first, as scripts/test does",
            own.display()
        )
    })
}

/// A directory of one test's own, in which commands run.
pub struct Scratch(TempDir);

impl Scratch {
    /// An empty one.
    ///
    /// # Panics
    /// If the system gives none.
    #[must_use]
    pub fn new() -> Scratch {
        Scratch(tempfile::tempdir().expect("the system has room for a directory"))
    }

    /// A file in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(name), contents).expect("a scratch directory can be written to");
    }

    /// A file's bytes.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Generates `mix.pcap`, of the profile `mix`.
    pub fn mix(&self, packets: u64, seed: u64) {
        let (packets, seed) = (packets.to_string(), seed.to_string());
        let generate =
            ["trace", "gen", "--profile", "mix", "--packets", &packets, "--seed", &seed, "-o", "mix.pcap"];
        self.chc(&generate).expect(0);
    }

    /// Runs `chc` with these arguments.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn chc(&self, arguments: &[&str]) -> Answer {
        self.chc_into(arguments, Stdio::piped())
    }

    /// Runs `chc` with its stdout going elsewhere.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn chc_into(&self, arguments: &[&str], stdout: impl Into<Stdio>) -> Answer {
        let child = self.command(arguments).stdout(stdout).stderr(Stdio::piped()).spawn();
        let output = child.and_then(Child::wait_with_output).expect("the binary can be started");
        Answer {
            command: format!("chc {}", arguments.join(" ")),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts `chc` with these arguments; what it says is lost.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.spawn_with(arguments, &[])
    }

    /// The same, with variables in its environment.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Child {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the binary can be started")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.0.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    command: String,
    code: Option<i32>,
    /// Its result.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl Answer {
    /// Checks the exit code.
    ///
    /// # Panics
    /// With everything the command said, if it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Answer {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Checks that the messages contain each of these.
    ///
    /// # Panics
    /// With everything the command said, if one is missing.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Answer {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is missing\n{self}");
        }
        self
    }

    /// The one JSON object on stdout.
    ///
    /// # Panics
    /// With everything the command said, if stdout is anything else.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        let value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("stdout is not JSON: {e}\n{self}"));
        assert!(matches!(value, Value::Object(_)) && self.stdout.trim_end().lines().count() == 1, "{self}");
        value
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Answer { command, code, stdout, stderr } = self;
        write!(f, "$ {command}\nexit {code:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }
}

/// The chain file of this name among the configurations of the repository.
#[must_use]
pub fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(format!("{name}.toml"))
}
