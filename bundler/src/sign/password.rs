//! Passwords of private keys: from a file, the environment, or a prompt; never an argument, which others can see.

use std::io::IsTerminal as _;
use std::path::Path;

use crate::child::PASSWORDS;
use crate::error::{Error, Result};
use crate::file;
use crate::interrupt;

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
/// When there is none to be had, it is empty, or the two differ.
pub fn for_new_key(file: Option<&Path>) -> Result<Vec<u8>> {
    if let Some(password) = given(file)? {
        return not_empty(password);
    }
    let password = not_empty(ask("New password for the private key: ")?)?;
    if ask("The same again: ")? != password {
        return Err(Error::input("reading the new password", "the two are not the same"));
    }
    Ok(password)
}

fn not_empty(password: Vec<u8>) -> Result<Vec<u8>> {
    match password.is_empty() {
        false => Ok(password),
        true => {
            let why = "it is empty, which would leave the key open to everybody who has its file";
            Err(Error::input("choosing the private key's password", why).hint(
                "give one with --password-file, in AIRLOCK_PASSWORD or at the prompt. A key that is open on purpose is made by \
                 `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE`",
            ))
        }
    }
}

fn given(file: Option<&Path>) -> Result<Option<Vec<u8>>> {
    if let Some(path) = file {
        let reading = |e| Error::input(format!("reading password file {}", path.display()), e);
        // A pipe is as good as a file here, and may come from a password manager.
        let mut password = interrupt::idle(|| file::read_piped(path, PASSWORD_CAP)).map_err(reading)?;
        // Editors end the last line; a password with a line feed at its end is not to be had from a file.
        if password.last() == Some(&b'\n') {
            password.pop();
        }
        return Ok(Some(password));
    }
    Ok(PASSWORDS.iter().find_map(std::env::var_os).map(|value| value.into_encoded_bytes()))
}

fn ask(prompt: &str) -> Result<Vec<u8>> {
    let asking = "asking for the password";
    if !std::io::stdin().is_terminal() {
        return Err(Error::input(asking, "there is no terminal to ask at")
            .hint("give it in a file with --password-file, or in AIRLOCK_PASSWORD"));
    }
    interrupt::prompt(|| rpassword::prompt_password(prompt))
        .map(String::into_bytes)
        .map_err(|e| Error::input(asking, e))
}
