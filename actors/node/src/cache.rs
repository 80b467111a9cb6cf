//! `within cache`: what the steps of preparing data have kept, on this host and beside the artifact store.

use std::time::Duration;

use bus::artifact::ArtifactStore;
use data_loader::cache::StepCache;
use serde_json::json;

use crate::cli::CacheCommand;
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::print_line;

/// Digits of a key that a person is shown.
const KEY_DIGITS: usize = 16;

/// `30d`, `12h`, `90m`, `45s`, or a number of seconds.
pub fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: expected a number and d, h, m or s, such as 30d");
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

pub fn command(config: &Config, command: &CacheCommand) -> Result<u8, Failure> {
    let artifacts = ArtifactStore::open(&config.artifacts)?;
    let cache = StepCache::of(&config.home, &artifacts, &config.cache);
    match command {
        CacheCommand::Ls => list(config, &cache),
        CacheCommand::Prune { older_than } => prune(config, &cache, *older_than),
    }
    Ok(exit::DONE)
}

fn list(config: &Config, cache: &StepCache) {
    let time = messages::envelope::rfc3339;
    if !config.json {
        print_line(&format!(
            "{:<KEY_DIGITS$}  {:<8} {:<7} {:>14}  {:<24} {:<24}",
            "KEY", "STEP", "TIER", "BYTES", "CREATED", "LAST USED"
        ));
    }
    for (name, tier) in cache.tiers() {
        let (mut count, mut total_bytes) = (0u64, 0u64);
        for entry in tier.list() {
            count += 1;
            total_bytes += entry.size_bytes;
            let (created, used) = (time(entry.created_at), time(entry.used_at));
            if config.json {
                print_line(
                    &json!({
                        "key": entry.key, "step": entry.step, "tier": name, "size_bytes": entry.size_bytes,
                        "created_at": created, "used_at": used,
                    })
                    .to_string(),
                );
            } else {
                let key = &entry.key.as_str()[..KEY_DIGITS];
                print_line(&format!(
                    "{key}  {:<8} {name:<7} {:>14}  {created:<24} {used:<24}",
                    entry.step, entry.size_bytes
                ));
            }
        }
        if !config.json {
            print_line(&format!("{name}: {count} entries of {total_bytes} bytes in {}", tier.folder().display()));
        }
    }
}

fn prune(config: &Config, cache: &StepCache, older_than: Option<Duration>) {
    let unused_ms = older_than.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    for (name, tier) in cache.tiers() {
        let pruned = tier.prune(unused_ms, cache.now());
        if config.json {
            print_line(
                &json!({
                    "tier": name, "removed": pruned.removed, "removed_bytes": pruned.removed_bytes,
                    "kept": pruned.kept, "kept_bytes": pruned.kept_bytes,
                })
                .to_string(),
            );
        } else {
            print_line(&format!(
                "{name}: removed {} entries of {} bytes, kept {} of {} bytes",
                pruned.removed, pruned.removed_bytes, pruned.kept, pruned.kept_bytes
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        for (text, seconds) in [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45s", 45), ("0", 0), ("7", 7)] {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "-1d", "1w", "1 d", "1.5h"] {
            assert!(age(text).expect_err(text).contains("expected a number"), "{text}");
        }
    }
}
