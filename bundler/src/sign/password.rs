//! Passwords of private keys: from a file, the environment, or a prompt; never an argument, which others can see.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use crate::error::{Error, Result};

/// Environment variables that are read, the first that is set counts. The second is cosign's.
const VARIABLES: [&str; 2] = ["AIRLOCK_PASSWORD", "COSIGN_PASSWORD"];

/// Longest password that is read, in bytes.
const PASSWORD_CAP: u64 = 64 << 10;

/// The password of a key that exists.
///
/// # Errors
/// When there is none to be had.
pub fn for_existing_key(file: Option<&Path>) -> Result<Vec<u8>> {
    given(file)?.map_or_else(|| ask("Password of the private key: "), Ok)
}

/// The password of a key that is being made; a prompt asks twice.
///
/// # Errors
/// When there is none to be had, or the two differ.
pub fn for_new_key(file: Option<&Path>) -> Result<Vec<u8>> {
    if let Some(password) = given(file)? {
        return Ok(password);
    }
    let password = ask("New password for the private key: ")?;
    if ask("The same again: ")? != password {
        return Err(Error::input("reading the new password", "the two are not the same"));
    }
    Ok(password)
}

fn given(file: Option<&Path>) -> Result<Option<Vec<u8>>> {
    if let Some(path) = file {
        let reading = |e| Error::input(format!("reading password file {}", path.display()), e);
        // A pipe is as good as a file here, and may come from a password manager.
        let mut password = Vec::new();
        let file = std::fs::File::open(path).map_err(reading)?;
        file.take(PASSWORD_CAP + 1).read_to_end(&mut password).map_err(reading)?;
        if password.len() as u64 > PASSWORD_CAP {
            return Err(reading(std::io::Error::other(format!("it is larger than {PASSWORD_CAP} bytes"))));
        }
        // Editors end the last line; a password with a line feed at its end is not to be had from a file.
        if password.last() == Some(&b'\n') {
            password.pop();
        }
        return Ok(Some(password));
    }
    Ok(VARIABLES.iter().find_map(std::env::var_os).map(|value| value.into_encoded_bytes()))
}

fn ask(prompt: &str) -> Result<Vec<u8>> {
    let asking = "asking for the password";
    if !std::io::stdin().is_terminal() {
        return Err(Error::input(asking, "there is no terminal to ask at")
            .hint("give it in a file with --password-file, or in AIRLOCK_PASSWORD"));
    }
    rpassword::prompt_password(prompt).map(String::into_bytes).map_err(|e| Error::input(asking, e))
}
