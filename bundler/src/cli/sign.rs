//! `airlock sign`, and who signs in other verbs.

use std::path::{Path, PathBuf};

use bundler::bundle::Bundle;
use bundler::sign::{self, PublicKey, Signer};
use bundler::{Error, Result, file};

use super::{Printer, keys};

/// Who signs.
#[derive(clap::Args)]
pub struct Signing {
    /// Private key to sign with.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File with the private key's password; AIRLOCK_PASSWORD, COSIGN_PASSWORD or a prompt otherwise.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Have a command sign, so that an HSM, a KMS or another tool keeps the key. It is run by `sh -c`, gets what is to be signed (a bundle's airlock.json, or the policy) on stdin, and
    /// writes an ECDSA P-256 signature over SHA-256 to stdout, in DER, Base64 or a sigstore bundle, as `cosign sign-blob` does.
    #[arg(long, value_name = "COMMAND", requires = "public_key", conflicts_with = "key")]
    signer: Option<String>,
    /// The public half (PEM) of the key that signs elsewhere.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

impl Signing {
    /// None if nobody is named.
    pub fn signer(&self) -> Result<Option<Signer>> {
        if let (Some(command), Some(public)) = (&self.signer, &self.public_key) {
            let (command, public) = (command.clone(), PublicKey::read(public)?);
            return Ok(Some(Signer::Command { command, public }));
        }
        let Some(path) = &self.key else { return Ok(None) };
        keys::read_private(path, self.password_file.as_deref()).map(|key| Some(Signer::Key(key)))
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.key, &self.password_file, &self.public_key].into_iter().flatten().map(PathBuf::as_path)
    }
}

/// Arguments of `sign`.
#[derive(clap::Args)]
pub struct Args {
    /// The bundle: a signature is added to its file, and nothing else of it changes.
    bundle: PathBuf,
    #[command(flatten)]
    signing: Signing,
    /// A signature over airlock.json that was made elsewhere, with the key of --public-key: DER, Base64, or the
    /// sigstore bundle that `cosign sign-blob --bundle` writes.
    #[arg(long, value_name = "FILE", requires = "public_key", conflicts_with_all = ["key", "signer"])]
    signature: Option<PathBuf>,
    /// Write the signature (Base64, as `cosign sign-blob` does) to this file, and leave the bundle's as it is: for `--signature` of
    /// the verbs that check it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    if let Some(output) = &args.output {
        let others =
            [Some(&args.bundle), args.signature.as_ref()].into_iter().flatten().map(PathBuf::as_path);
        file::not_an_input(output, args.signing.files().chain(others))?;
    }
    let message = Bundle::message(&args.bundle)?;
    let entry = match (&args.signature, &args.signing.public_key) {
        (Some(path), Some(public)) => sign::entry(&PublicKey::read(public)?, &message, &detached(path)?)
            .map_err(|e| e.within(format!("taking signature {}", path.display())))?,
        _ => match args.signing.signer()? {
            Some(signer) => signer.entry(&message)?,
            None => {
                return Err(Error::input(
                    format!("signing bundle {}", args.bundle.display()),
                    "nobody is named",
                )
                .hint("--key FILE, or --signer COMMAND or --signature FILE with --public-key FILE"));
            }
        },
    };
    if let Some(output) = &args.output {
        return put_beside(output, &entry, printer);
    }
    Bundle::add_signature(&args.bundle, &entry)?;
    let signers = Bundle::open(&args.bundle)?.signers();
    let value = serde_json::json!({"bundle": args.bundle.to_string_lossy(), "claims_keys": signers});
    printer.result(&value, || {
        format!("{} has signatures of keys {}\n", args.bundle.display(), signers.join(", "))
    })
}

/// Reads a signature's file.
pub fn detached(path: &Path) -> Result<Vec<u8>> {
    file::read(path, file::TEXT_CAP)
        .map_err(|e| Error::unreadable(format!("reading signature {}", path.display()), e))
}

fn put_beside(output: &Path, entry: &[u8], printer: &Printer) -> Result<()> {
    let (id, signature) = (sign::signer(entry)?, sign::signature(entry)?);
    file::replace(output, format!("{signature}\n").as_bytes(), 0o644)
        .map_err(|e| Error::input(format!("writing {}", output.display()), e))?;
    let value = serde_json::json!({"signature": output.to_string_lossy(), "key_id": id});
    printer.result(&value, || format!("{} has a signature of key {id}\n", output.display()))
}
