//! How far a stage is, for people and programs: a bar at a terminal, now and then a line elsewhere. Bytes done never go back;
//! the rate is that of this run, so that what a run before had done makes no time left too short.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bundler::progress::{Progress, Silent};
use clap::ValueEnum;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::printer::stderr;

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Show {
    /// A bar at a terminal, else a line each 10 seconds; nothing beside --json.
    Auto,
    /// A line each 10 seconds.
    Lines,
    /// A JSON object on a line of stderr, each second and at the end of a step.
    Json,
    /// Nothing.
    None,
}

/// What shows progress.
pub fn progress(show: Show, json: bool, at_terminal: bool) -> Arc<dyn Progress> {
    match (show, json, at_terminal) {
        (Show::None, ..) | (Show::Auto, true, _) => Arc::new(Silent),
        (Show::Auto, false, true) => Arc::new(Bar::default()),
        (Show::Auto | Show::Lines, ..) => Arc::new(Ticker::new(Duration::from_secs(10), line, false)),
        (Show::Json, ..) => Arc::new(Ticker::new(Duration::from_secs(1), object, true)),
    }
}

/// A bar with bytes done, rate and time left.
#[derive(Default)]
struct Bar(Mutex<Option<Drawn>>);

/// A bar that is drawn.
struct Drawn {
    bar: ProgressBar,
    /// Bytes that a run before had done.
    resumed: Arc<AtomicU64>,
}

impl Bar {
    fn with(&self, f: impl FnOnce(&mut Option<Drawn>)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The bar's line. Rate and time left are not indicatif's own, which take bytes from before for bytes of this run.
fn style(resumed: &Arc<AtomicU64>) -> ProgressStyle {
    let style = ProgressStyle::with_template("{msg:>9} {wide_bar} {bytes}/{total_bytes} {rate} {left}");
    let pace = |state: &ProgressState, resumed: &AtomicU64| {
        let total = state.len().unwrap_or_default();
        pace(total, state.pos(), resumed.load(Ordering::Relaxed), state.elapsed())
    };
    let (resumed, also) = (Arc::clone(resumed), Arc::clone(resumed));
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("rate", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}/s", HumanBytes(pace(state, &resumed).0));
    });
    style.with_key("left", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let left = pace(state, &also).1.map(|left| HumanDuration(Duration::from_secs(left)).to_string());
        let _ = out.write_str(left.as_deref().unwrap_or("-"));
    })
}

impl Progress for Bar {
    fn begin(&self, step: &str, bytes: u64) {
        let resumed = Arc::default();
        let bar = ProgressBar::new(bytes).with_style(style(&resumed));
        bar.set_message(step.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with(|slot| *slot = Some(Drawn { bar, resumed }));
    }

    fn advance(&self, bytes: u64) {
        self.with(|slot| slot.iter().for_each(|drawn| drawn.bar.inc(bytes)));
    }

    fn resume(&self, bytes: u64) {
        self.with(|slot| {
            slot.iter().for_each(|drawn| {
                drawn.resumed.fetch_add(bytes, Ordering::Relaxed);
                drawn.bar.inc(bytes);
            });
        });
    }

    fn end(&self) {
        self.with(|slot| slot.take().iter().for_each(|drawn| drawn.bar.finish_and_clear()));
    }
}

/// A step that is going on.
struct Step {
    name: String,
    total: u64,
    done: u64,
    /// Of these, what a run before had done.
    resumed: u64,
    since: Instant,
    /// Whether anything was said of it.
    is_said: bool,
}

impl Step {
    /// Bytes a second of this run, and seconds left, if that can be told.
    fn pace(&self) -> (u64, Option<u64>) {
        pace(self.total, self.done, self.resumed, self.since.elapsed())
    }
}

/// Bytes a second without those from before, and seconds left, if that can be told.
fn pace(total: u64, done: u64, resumed: u64, elapsed: Duration) -> (u64, Option<u64>) {
    let rate = done.saturating_sub(resumed) as f64 / elapsed.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done) as f64 / rate;
    (rate as u64, left.is_finite().then_some(left.ceil() as u64))
}

/// `fetching: 1.20 GiB of 3.00 GiB, 120.00 MiB/s, 15 seconds left`.
fn line(step: &Step) -> String {
    let (rate, left) = step.pace();
    let left = match left {
        _ if step.done >= step.total => String::new(),
        Some(left) => format!(", {} left", HumanDuration(Duration::from_secs(left))),
        None => ", it is not known how long".into(),
    };
    let [done, total, rate] = [step.done, step.total, rate].map(HumanBytes);
    format!("{}: {done} of {total}, {rate}/s{left}\n", step.name)
}

/// `{"progress":"fetching","done":1,"total":3,"bytes_per_second":1,"seconds_left":2}`.
fn object(step: &Step) -> String {
    let (rate, left) = step.pace();
    let value = serde_json::json!({
        "progress": step.name, "done": step.done, "total": step.total, "bytes_per_second": rate, "seconds_left": left,
    });
    format!("{value}\n")
}

/// What the ticking thread shares with the stage.
#[derive(Default)]
struct Shared {
    step: Mutex<Option<Step>>,
    ended: Condvar,
}

impl Shared {
    fn step(&self) -> MutexGuard<'_, Option<Step>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says something each so often, also while nothing moves.
struct Ticker {
    period: Duration,
    words: fn(&Step) -> String,
    /// Whether a step that ended sooner is said too.
    says_all: bool,
    shared: Arc<Shared>,
}

impl Ticker {
    fn new(period: Duration, words: fn(&Step) -> String, says_all: bool) -> Self {
        Self { period, words, says_all, shared: Arc::default() }
    }
}

impl Progress for Ticker {
    fn begin(&self, step: &str, bytes: u64) {
        let step = Step {
            name: step.into(),
            total: bytes,
            done: 0,
            resumed: 0,
            since: Instant::now(),
            is_said: false,
        };
        *self.shared.step() = Some(step);
        let (shared, period, words) = (Arc::clone(&self.shared), self.period, self.words);
        std::thread::spawn(move || {
            let mut step = shared.step();
            while step.is_some() {
                let waited = shared.ended.wait_timeout(step, period).unwrap_or_else(PoisonError::into_inner);
                step = waited.0;
                if let Some(step) = step.as_mut().filter(|_| waited.1.timed_out()) {
                    stderr(&words(step));
                    step.is_said = true;
                }
            }
        });
    }

    fn advance(&self, bytes: u64) {
        self.shared.step().iter_mut().for_each(|step| step.done += bytes);
    }

    fn resume(&self, bytes: u64) {
        self.shared.step().iter_mut().for_each(|step| {
            step.done += bytes;
            step.resumed += bytes;
        });
    }

    fn end(&self) {
        if let Some(step) = self.shared.step().take().filter(|step| step.is_said || self.says_all) {
            stderr(&(self.words)(&step));
        }
        self.shared.ended.notify_all();
    }
}

/// Without its end a step that failed would go on being told of.
impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.step().take();
        self.shared.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    fn step(done: u64, resumed: u64, seconds: u64) -> Step {
        let since = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a time");
        Step { name: "fetching".into(), total: 3 << 30, done, resumed, since, is_said: false }
    }

    /// A terminal that keeps what was drawn last.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn last(&self) -> String {
            self.0.lock().expect("a line").clone()
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            if text.contains("fetching") {
                *self.0.lock().expect("a line") = text.into();
            }
            Ok(())
        }

        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_from_before_make_no_rate_of_the_bar() {
        let (screen, bar) = (Screen::default(), Bar::default());
        bar.begin("fetching", 4 << 30);
        bar.with(|slot| {
            let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
            slot.as_ref().expect("a bar").bar.set_draw_target(target);
        });
        bar.resume(2 << 30);
        // Drawn five times a second.
        std::thread::sleep(Duration::from_millis(700));
        assert!(screen.last().contains("2.00 GiB/4.00 GiB 0 B/s -"), "{}", screen.last());
        bar.advance(1 << 20);
        std::thread::sleep(Duration::from_millis(700));
        assert!(!screen.last().contains(" 0 B/s") && !screen.last().contains("GiB/s"), "{}", screen.last());
    }

    #[test]
    fn what_was_done_before_makes_no_rate() {
        let (rate, left) = step(2 << 30, 1 << 30, 8).pace();
        assert!((127 << 20..=128 << 20).contains(&rate), "{rate}");
        assert_eq!(left, Some(9));
        assert_eq!(step(1 << 30, 1 << 30, 8).pace(), (0, None));
        let text = line(&step(2 << 30, 1 << 30, 8));
        assert!(
            text.starts_with("fetching: 2.00 GiB of 3.00 GiB, 12") && text.ends_with(" 9 seconds left\n"),
            "{text}"
        );
        assert!(line(&step(0, 0, 8)).ends_with("it is not known how long\n"));
        let value: serde_json::Value = serde_json::from_str(&object(&step(1 << 30, 0, 8))).expect("JSON");
        assert_eq!((&value["done"], &value["seconds_left"]), (&(1 << 30).into(), &17.into()));
    }
}
