//! The command line: definitions, and the printer that all output goes through. One file a verb below.

mod audit;
mod build;
mod discover;
mod inspect;
mod install;
mod keys;
mod lock;
mod mirrors;
mod policy;
mod observer;
mod preflight;
mod printer;
mod progress;
mod push;
mod receipts;
mod render;
mod rewrite;
mod rollback;
mod serve;
mod sign;
mod stop;
mod trust;
mod uninstall;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use bundler::bundle::Bundle;
use bundler::cache::ContentCache;
use bundler::cluster::Cluster;
use bundler::reference::Mapping;
use bundler::registry::{Client, Options, TRANSFERS};
use bundler::trust::Policy;
use bundler::verify::{Trust, VerifiedBundle};
use bundler::{Error, Result};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use printer::Printer;
use printer::Volume;
use progress::Show;
use stop::Doing;

/// Carries Helm charts and their container images across an air gap, in one signed file.
///
/// Exit codes: 0 done; 1 input or state of this machine; 2 refused for trust (signature, digest, policy); 3 network or
/// registry; 4 cluster or helm; 129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM.
#[derive(Parser)]
#[command(name = "airlock", version, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// Print results as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Say more on stderr: a line for each image, blob and request; twice for headers, retries and decisions.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Say less on stderr: no progress, notes and warnings, no requests of `serve`; errors, and warnings about trust, are said.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    color: Color,
    /// How far a stage is, on stderr.
    #[arg(long, global = true, value_enum, value_name = "HOW", default_value = "auto")]
    progress: Show,
    #[command(subcommand)]
    verb: Verb,
}

/// When to use colour.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Color {
    /// At a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Subcommand)]
enum Verb {
    /// List every reference to an image in the charts, or in rendered manifests, and how sure each is.
    Discover(discover::Args),
    /// Pin what bundle.toml wants: render the charts, resolve every tag to a digest, write images.lock.
    Lock(lock::Args),
    /// Build the bundle of images.lock, signed.
    Build(build::Args),
    /// Keys for signing bundles.
    Keys(keys::Args),
    /// Add a signature to a bundle: of somebody else who must agree, or with a key that is kept elsewhere.
    Sign(sign::Args),
    /// The site's trust policy: whose signatures count there, and for what.
    Trust(trust::Args),
    /// Check a bundle's signature, structure and every byte of its content.
    Verify(verify::Args),
    /// Show what is in a bundle, and who signed it.
    Inspect(inspect::Args),
    /// Be an OCI registry: read-only, straight from bundles, or one that is pushed to.
    Serve(serve::Args),
    /// Push a bundle into an OCI registry.
    Push(push::Args),
    /// Print what install would apply, rewritten and checked; for GitOps, kustomize and kubectl. No cluster is asked.
    Render(render::Args),
    /// Rewrite every reference in rendered manifests to the site's registry: stdin to stdout.
    Rewrite(rewrite::Args),
    /// Verify, push, and install the charts with every reference rewritten to the site's registry.
    Install(Box<install::Args>),
    /// Write node configuration, so that nodes pull a bundle's images from the site's registry under their own names.
    Mirrors(mirrors::Args),
    /// Write admission policies for the cluster: images of the bundle are rewritten to the site's registry, others refused.
    Policy(policy::Args),
    /// Take a release back to an older revision, whose manifests were rewritten when they were installed.
    Rollback(rollback::Args),
    /// Remove a release, or all of a bundle in reverse order; says what stays.
    Uninstall(uninstall::Args),
    /// Compare every running container's image with the bundle. Exit code 2: something foreign runs.
    Audit(audit::Args),
    /// Show what was installed by which bundle: receipts of the cluster, or one in a file.
    Receipts(receipts::Args),
    /// What helm runs while `install` applies a chart.
    #[command(hide = true)]
    PostRender(install::PostRenderArgs),
}

/// How registries are reached.
#[derive(Args)]
struct Network {
    /// A PEM file with more certificate authorities that registries' certificates are trusted by.
    #[arg(long, value_name = "FILE", env = "AIRLOCK_CA_FILE", value_delimiter = ',')]
    ca_file: Vec<PathBuf>,
    /// A certificate (PEM) to show to registries that ask who we are.
    #[arg(long, value_name = "FILE", env = "AIRLOCK_CERT_FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// The private key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", env = "AIRLOCK_KEY_FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Registries that speak plain HTTP. Those on this machine are found out by themselves.
    #[arg(long, value_name = "HOST[:PORT]", env = "AIRLOCK_PLAIN_HTTP", value_delimiter = ',')]
    plain_http: Vec<String>,
    /// Read a registry's images from another place.
    #[arg(
        long = "mirror",
        value_name = "HOST=REGISTRY[/PREFIX]",
        env = "AIRLOCK_MIRRORS",
        value_delimiter = ','
    )]
    mirrors: Vec<String>,
    /// Move at most so many bytes a second, up and down, all transfers together: 500k, 10M, 1G (powers of 1024).
    #[arg(long, value_name = "BYTES", env = "AIRLOCK_LIMIT_RATE", value_parser = rate)]
    limit_rate: Option<u64>,
    /// Move so many blobs at a time.
    #[arg(long, value_name = "N", env = "AIRLOCK_CONCURRENCY", default_value_t = TRANSFERS, value_parser = transfers)]
    concurrency: usize,
}

/// Reads a number of bytes a second, as curl's `--limit-rate` does.
fn rate(text: &str) -> std::result::Result<u64, String> {
    // Below it, what is on its way would wait so long for its turn that a server takes us for dead.
    const LEAST: u64 = 64 << 10;
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 =
        digits.parse().map_err(|_| "not a number of bytes, such as 500k, 10M or 1G".to_owned())?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes >= LEAST);
    bytes.ok_or_else(|| "at least 64k".into())
}

/// Reads how many blobs are moved at a time.
fn transfers(text: &str) -> std::result::Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| "not a number from 1 to 64".into())
}

impl Network {
    fn client(&self) -> Result<Client> {
        let mirror = |text: &String| match text.split_once('=') {
            Some((host, place)) if !host.is_empty() && !place.is_empty() => Ok((host.into(), place.into())),
            _ => Err(Error::input("reading --mirror", format!("{text:?} is not HOST=REGISTRY[/PREFIX]"))),
        };
        Client::new(&Options {
            ca_files: self.ca_file.clone(),
            certificate: self.cert_file.clone().zip(self.key_file.clone()),
            plain_http: self.plain_http.clone(),
            mirrors: self.mirrors.iter().map(mirror).collect::<Result<_>>()?,
            uploads: Some(ContentCache::of_user()),
            limit_rate: self.limit_rate,
            transfers: std::num::NonZeroUsize::new(self.concurrency),
        })
    }
}

/// Which cluster.
#[derive(Args)]
struct Kube {
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    kube_context: Option<String>,
}

impl Kube {
    async fn connect(&self) -> Result<Cluster> {
        let context = self.kube_context.as_deref();
        context
            .map_or(Ok(()), bundler::name::context)
            .map_err(|e| Error::input("reading --kube-context", e))?;
        Cluster::connect(context).await
    }
}

/// Names that go to helm's command line.
fn check_place(release: &str, namespace: Option<&str>) -> Result<()> {
    bundler::name::release(release).map_err(|e| Error::input("reading the release's name", e))?;
    namespace.map_or(Ok(()), bundler::name::namespace).map_err(|e| Error::input("reading --namespace", e))
}

/// How long is waited.
#[derive(Args)]
struct Waiting {
    /// Wait until everything is ready, and say what is not and why.
    #[arg(long)]
    wait: bool,
    /// Longest wait for one release, hooks included.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    timeout: String,
}

/// A duration in the form that helm takes: `90s`, `10m`, `1h30m`.
fn duration(text: &str) -> std::result::Result<String, String> {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = rest[digits..].chars().next().filter(|unit| "smh".contains(*unit));
        if digits == 0 || digits > 6 || unit.is_none() {
            return Err("a duration is written like 90s, 10m or 1h30m".into());
        }
        rest = &rest[digits + 1..];
    }
    if text.is_empty() { Err("a duration is written like 90s".into()) } else { Ok(text.into()) }
}

/// A bundle, and whose signature on it counts.
#[derive(Args)]
struct Trusted {
    /// The bundle.
    bundle: PathBuf,
    #[command(flatten)]
    signed: Signed,
}

/// Whose signature counts. What the command line says comes before the environment.
#[derive(Args)]
struct Signed {
    /// Public key (PEM) of who built it; any of several. AIRLOCK_KEY names one where nothing here says whose signature counts.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Take the bundle whoever signed it, or nobody. Damage is still found, malice is not.
    #[arg(long, conflicts_with = "keys")]
    insecure_skip_verify: bool,
    /// How many of the keys must have signed it; one, or as many as the policy says, otherwise.
    #[arg(long, value_name = "N", conflicts_with = "insecure_skip_verify")]
    require_signatures: Option<usize>,
    /// The site's trust policy instead: which keys, how many of them, for which bundles (see `airlock trust`). AIRLOCK_TRUST names it
    /// where nothing here says whose signature counts, before AIRLOCK_KEY.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keys", "insecure_skip_verify", "require_signatures"])]
    trust: Option<PathBuf>,
    /// A signature over airlock.json that lies beside the bundle (DER, Base64 or a sigstore bundle, as `cosign sign-blob` and
    /// `airlock sign --output` write it): it counts as if it were in the bundle; several are possible.
    #[arg(long = "signature", value_name = "FILE", conflicts_with = "insecure_skip_verify")]
    signatures: Vec<PathBuf>,
}

/// What to do where nobody says it.
const WHOSE: &str =
    "give the public key of who built it with --key FILE, or the site's policy with --trust FILE";

/// Who is said to be trusted.
enum Whose {
    Policy(PathBuf),
    Keys(Vec<PathBuf>),
    Anybody,
}

/// The site's registry, and how images are called there.
#[derive(clap::Args)]
struct AtSite {
    /// The site's registry, and where in it, by the name that the cluster's nodes know.
    #[arg(long, value_name = "REGISTRY[/PREFIX]")]
    registry: String,
    /// Leave the source's host out of the repositories' names, as `push --strip-host` does; refused if two would collide.
    #[arg(long)]
    strip_host: bool,
    /// Put every repository directly below REGISTRY[/PREFIX], as `push --flat` does.
    #[arg(long)]
    flat: bool,
}

impl AtSite {
    fn mapping(&self) -> Result<Mapping> {
        mapping(&self.registry, self.strip_host, self.flat)
    }
}

/// Reads `REGISTRY[/PREFIX]`.
fn mapping(registry: &str, strip_host: bool, flat: bool) -> Result<Mapping> {
    Mapping::new(registry, strip_host)
        .map(|mapping| mapping.flat(flat))
        .map_err(|e| Error::input(format!("reading registry {registry}"), e))
}

impl Trusted {
    fn open(&self, printer: &Printer) -> Result<VerifiedBundle> {
        self.signed.open(&self.bundle, printer)
    }
}

impl Signed {
    /// None if nothing says it.
    fn whose(&self) -> Option<Whose> {
        let named = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        match (&self.trust, self.keys.as_slice()) {
            _ if self.insecure_skip_verify => Some(Whose::Anybody),
            (Some(policy), _) => Some(Whose::Policy(policy.clone())),
            (None, []) => {
                let keys = || named("AIRLOCK_KEY").map(|key| Whose::Keys(vec![key]));
                named("AIRLOCK_TRUST").map(Whose::Policy).or_else(keys)
            }
            (None, keys) => Some(Whose::Keys(keys.to_vec())),
        }
    }

    /// Whether signatures are to be checked, where they need not be.
    fn is_checked(&self) -> Result<bool> {
        match self.whose() {
            Some(Whose::Anybody) => Ok(false),
            None if !self.signatures.is_empty() || self.require_signatures.is_some() => {
                Err(Error::input("checking signatures", "nobody says whose signature counts").hint(WHOSE))
            }
            whose => Ok(whose.is_some()),
        }
    }

    /// Opens a bundle, if it is signed so.
    fn open(&self, path: &Path, printer: &Printer) -> Result<VerifiedBundle> {
        let mut policy = None;
        let trust = match self.whose() {
            Some(Whose::Policy(path)) => {
                let mut trust = policy.insert(Policy::read(&path)?).trust();
                if let (Trust::Keys { required, .. }, Some(wanted)) = (&mut trust, self.require_signatures) {
                    *required = wanted.max(*required);
                }
                trust
            }
            Some(Whose::Keys(keys)) => self.keys(&keys)?,
            Some(Whose::Anybody) => {
                printer.alarm(
                    "the signature is NOT checked (--insecure-skip-verify): anybody may have made this bundle",
                );
                Trust::InsecureSkipVerify
            }
            None => {
                let action = format!("verifying bundle {}", path.display());
                return Err(Error::input(action, "nobody says whose signature counts").hint(WHOSE));
            }
        };
        let mut bundle = Bundle::open(path)?;
        if let Trust::Keys { keys, .. } = &trust {
            for beside in &self.signatures {
                let taken = bundle.take_signature(&sign::detached(beside)?, keys);
                taken.map_err(|e| e.within(format!("taking signature {}", beside.display())))?;
            }
        }
        let bundle = bundle.verify(&trust)?;
        policy.map_or(Ok(()), |policy| policy.check(bundle.manifest()))?;
        Ok(bundle)
    }

    fn keys(&self, paths: &[PathBuf]) -> Result<Trust> {
        let (keys, required) = (keys::public(paths)?, self.require_signatures.unwrap_or(1));
        if !(1..=keys.len()).contains(&required) {
            let why = format!("{required} of {} keys can't have signed it", keys.len());
            return Err(Error::input("reading --require-signatures", why).hint("give each key with --key"));
        }
        Ok(Trust::Keys { keys, required })
    }
}

/// The command line, with one old spelling that clap can't know as an alias made a new one.
pub fn arguments() -> Vec<std::ffi::OsString> {
    mirrors::old_spelling(std::env::args_os().collect())
}

/// Options that check less or dare more: not to be suggested for being spelled alike.
const WEAKER: [&str; 8] = [
    "--allow-downgrade",
    "--anonymous-pull",
    "--anonymous-push",
    "--force",
    "--insecure-skip-verify",
    "--quick",
    "--skip-preflight",
    "--unsigned",
];

/// Says help, or what is wrong with the command line: as JSON where that was asked for, though not parsed yet. Returns the
/// exit code.
pub fn say_usage(mut error: clap::Error) -> u8 {
    if let Some(ContextValue::String(suggested)) = error.get(ContextKind::SuggestedArg)
        && WEAKER.contains(&suggested.as_str())
    {
        error.remove(ContextKind::SuggestedArg);
        // It has the suggested option in it.
        error.remove(ContextKind::Usage);
    }
    if !error.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        let _ = error.print();
        return u8::from(error.use_stderr());
    }
    let text = error.render().to_string();
    let (why, usage) = text.split_once("\n\n").unwrap_or((&text, ""));
    let why = why.trim_start_matches("error: ").trim_end();
    let said = Error::input("reading the command line", why).hint(usage.trim_end());
    Printer::new(true, Volume::Normal, false, Show::None).error(&said);
    exit_code(&said)
}

impl Cli {
    /// Where output goes.
    pub fn printer(&self) -> Printer {
        let auto = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && printer::at_terminal();
        let color = self.color == Color::Always || (self.color == Color::Auto && auto);
        let volume = if self.quiet { Volume::Quiet } else { Volume::of(self.verbose) };
        Printer::new(self.json, volume, color, self.progress)
    }

    /// Runs the verb, until it ends or the process is asked to stop. `end` ends the process where the verb can't.
    pub async fn run(&self, printer: &Printer, end: Sender<Result<()>>) -> Result<()> {
        stop::stoppable(self.verb.doing(), end, self.verb.run(printer)).await
    }
}

impl Verb {
    async fn run(&self, printer: &Printer) -> Result<()> {
        match self {
            Self::Discover(args) => discover::run(args, printer).await,
            Self::Lock(args) => lock::run(args, printer).await,
            Self::Build(args) => build::run(args, printer).await,
            Self::Keys(args) => keys::run(args, printer),
            Self::Sign(args) => sign::run(args, printer),
            Self::Trust(args) => trust::run(args, printer),
            Self::Verify(args) => verify::run(args, printer),
            Self::Inspect(args) => inspect::run(args, printer),
            Self::Serve(args) => serve::run(args, printer).await,
            Self::Push(args) => push::run(args, printer).await,
            Self::Render(args) => render::run(args, printer).await,
            Self::Rewrite(args) => rewrite::run(args, printer),
            Self::Install(args) => install::run(args, printer).await,
            Self::Mirrors(args) => mirrors::run(args, printer),
            Self::Policy(args) => policy::run(args, printer).await,
            Self::Rollback(args) => rollback::run(args, printer).await,
            Self::Uninstall(args) => uninstall::run(args, printer).await,
            Self::Audit(args) => audit::run(args, printer).await,
            Self::Receipts(args) => receipts::run(args, printer).await,
            Self::PostRender(args) => bundler::postrender::run(&args.job),
        }
    }

    /// The verb's name in the sentence that is said when it is stopped, and the state that it leaves.
    fn doing(&self) -> Doing {
        const NOTHING: &str = "nothing was written; the same command starts again";
        const UNCHANGED: &str = "nothing was changed; the same command starts again";
        let (work, left) = match self {
            Self::Discover(_) => ("looking for references", NOTHING),
            Self::Lock(_) => ("pinning", NOTHING),
            Self::Build(_) => {
                ("building", "there is no bundle yet; the same command goes on with what was fetched")
            }
            Self::Keys(_) => ("making a key pair", NOTHING),
            Self::Sign(_) => ("signing", "no signature was added; the same command starts again"),
            Self::Trust(_) => ("reading the policy", UNCHANGED),
            Self::Verify(_) => ("verifying", "the bundle is not verified; the same command starts again"),
            Self::Inspect(_) => ("inspecting", "the same command starts again"),
            Self::Serve(_) => ("serving", "requests that had not ended were cut off"),
            Self::Push(_) => ("pushing", "what was sent stays; the same command goes on from there"),
            Self::Render(_) => ("rendering", NOTHING),
            Self::Rewrite(_) => ("rewriting", NOTHING),
            Self::Install(args) if args.dry_run => ("rendering", NOTHING),
            Self::Install(_) => (
                "installing",
                "nothing was changed in the cluster, and what was pushed stays; the same command resumes",
            ),
            Self::Mirrors(_) => ("writing node configuration", "the same command writes what is missing"),
            Self::Policy(_) => ("writing policies", NOTHING),
            Self::Rollback(_) => ("rolling back", UNCHANGED),
            Self::Uninstall(_) => ("uninstalling", UNCHANGED),
            Self::Audit(_) => ("comparing what runs with the bundle", "the same command starts again"),
            Self::Receipts(_) => ("reading receipts", "the same command starts again"),
            Self::PostRender(_) => ("rewriting what helm rendered", UNCHANGED),
        };
        Doing { work, left }
    }
}

/// The exit code of a failure: of the signal, if the process was asked to stop.
pub fn exit_code(error: &Error) -> u8 {
    bundler::interrupt::asked().map_or(error.kind().exit_code(), bundler::interrupt::Signal::exit_code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory as _;

    use super::*;

    /// Options whose variable only counts where they name a private key.
    const PRIVATE_OR_PUBLIC: [&str; 2] = ["key", "site-key"];

    #[test]
    fn an_option_is_the_same_in_every_verb() {
        fn look<'a>(command: &'a clap::Command, seen: &mut BTreeMap<&'a str, (String, String)>) {
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let Some(long) = argument.get_long().filter(|long| !PRIVATE_OR_PUBLIC.contains(long)) else {
                    continue;
                };
                let (value, short) = (argument.get_value_names(), argument.get_short());
                let takes = argument.get_action().takes_values();
                let shape = format!("{short:?} {:?} {:?}", value.filter(|_| takes), argument.get_env());
                let (verb, other) =
                    seen.entry(long).or_insert_with(|| (command.get_name().into(), shape.clone()));
                assert_eq!(*other, shape, "--{long} of {verb} and of {}", command.get_name());
            }
            command.get_subcommands().for_each(|verb| look(verb, seen));
        }
        let mut command = Cli::command();
        command.build();
        look(&command, &mut BTreeMap::new());
    }

    #[test]
    fn rates_and_numbers_are_read() {
        for (text, bytes) in
            [("64k", 65536), ("500K", 512_000), ("10M", 10 << 20), ("1g", 1 << 30), ("99999", 99999)]
        {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "k", "10", "63k", "1.5M", "-1", "10T", "99999999999999G", "M10"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!((transfers("1"), transfers("64")), (Ok(1), Ok(64)));
        for wrong in ["0", "65", "x", ""] {
            assert!(transfers(wrong).is_err(), "{wrong}");
        }
    }
}
