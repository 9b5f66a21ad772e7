//! Who signs: a key that is here, or a command that has one.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{PublicKey, SigningKey, entry, sign};
use crate::child::PASSWORDS;
use crate::error::{Error, Result};
use crate::interrupt;

/// Most that is read of what a command writes, in bytes: a sigstore bundle with proofs of logs has some 20,000.
const SIGNATURE_CAP: usize = 1 << 20;
/// Time between two looks whether the command has ended, or is to end.
const LOOK: Duration = Duration::from_millis(10);

/// Makes signature entries.
pub enum Signer {
    /// A private key.
    Key(SigningKey),
    /// A command for `sh -c`, so that an HSM, a KMS or another tool keeps the key: it gets the message on stdin and writes an ECDSA
    /// signature over SHA-256 to stdout, in DER, that in Base64, or a sigstore bundle. What it says on stderr is the user's to see.
    Command {
        /// The command.
        command: String,
        /// The public half of its key.
        public: PublicKey,
    },
}

impl Signer {
    /// The key that its signatures hold by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        match self {
            Self::Key(key) => key.public_key(),
            Self::Command { public, .. } => public.clone(),
        }
    }

    /// The entry of a bundle whose manifest is `message`. Blocks while the command runs.
    ///
    /// # Errors
    /// When the command fails, or its signature does not hold.
    pub fn entry(&self, message: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Key(key) => sign(key, message),
            Self::Command { command, public } => {
                let doing = || format!("signing with `{command}`");
                let signature = run(command, message).map_err(|e| Error::input(doing(), e))?;
                entry(public, message, &signature).map_err(|e| e.within(doing()))
            }
        }
    }
}

fn run(command: &str, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut shell = Command::new("sh");
    // cosign's own stays: the command may be cosign.
    shell.env_remove(PASSWORDS[0]);
    let mut child = shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take();
    let (pid, has_ended) = (child.id(), AtomicBool::new(false));
    let done = std::thread::scope(|scope| {
        // It may write before it has read all. What it does not want to read, it need not.
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(message)));
        scope.spawn(|| end_when_stopped(pid, &has_ended));
        let output = child.wait_with_output();
        has_ended.store(true, Ordering::Relaxed);
        output
    })?;
    if !done.status.success() {
        return Err(std::io::Error::other(done.status.to_string()));
    }
    if done.stdout.len() > SIGNATURE_CAP {
        return Err(std::io::Error::other("it writes more than a signature"));
    }
    Ok(done.stdout)
}

/// Ends the command when this process is asked to stop.
fn end_when_stopped(pid: u32, has_ended: &AtomicBool) {
    while !has_ended.load(Ordering::Relaxed) {
        if interrupt::asked().is_some() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // It may have ended in this moment.
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            return;
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_signs_or_says_why_not() {
        let public = SigningKey::generate().expect("a key").public_key();
        let error = |command: &str| {
            let signer = Signer::Command { command: command.into(), public: public.clone() };
            // More than a pipe holds.
            signer.entry(&[b'x'; 1 << 20]).expect_err(command).to_string()
        };
        assert!(error("exit 3").contains("signing with `exit 3`: exit status: 3"));
        assert!(error("head -c 1100000 /dev/zero").contains("more than a signature"));
        assert!(error("true").contains("no ECDSA signature"));
        assert!(error("no-such-command-anywhere").contains("127"));
    }
}
