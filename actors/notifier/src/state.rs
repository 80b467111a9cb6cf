//! The delivery of one event to its webhooks, pure: what to post, when to try again, when to give up, and when
//! the event is done with. Times are inputs, in milliseconds.

use messages::UnixMs;

/// How often and with what pauses a webhook is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// At least 1.
    pub attempts: u32,
    /// Before the second try; doubles with each.
    pub first_pause_ms: u64,
    /// No pause is longer, whatever the receiver asks for.
    pub longest_pause_ms: u64,
}

impl Policy {
    /// The pause after `failed` failed tries. What the receiver asked for (`Retry-After`) only prolongs it.
    fn pause_ms(&self, failed: u32, asked_ms: Option<u64>) -> u64 {
        let doubled = self.first_pause_ms.saturating_mul(1 << failed.saturating_sub(1).min(20));
        doubled.max(asked_ms.unwrap_or(0)).min(self.longest_pause_ms)
    }
}

/// How a post went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status {
        code: u16,
        retry_after_ms: Option<u64>,
    },
    /// No answer: not reached, or too late.
    None {
        reason: String,
    },
    /// It was never sent and never will be.
    Refused {
        reason: String,
    },
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Delivered,
    Passing { reason: String, retry_after_ms: Option<u64> },
    Final { reason: String },
}

fn verdict(answer: Answer) -> Verdict {
    match answer {
        Answer::Status { code: 200..=299, .. } => Verdict::Delivered,
        Answer::Status { code: code @ (408 | 425 | 429 | 500..=599), retry_after_ms } => {
            Verdict::Passing { reason: format!("answered {code}"), retry_after_ms }
        }
        Answer::Status { code: code @ 300..=399, .. } => {
            Verdict::Final { reason: format!("answered {code}: redirects are not followed") }
        }
        Answer::Status { code, .. } => Verdict::Final { reason: format!("answered {code}") },
        Answer::None { reason } => Verdict::Passing { reason, retry_after_ms: None },
        Answer::Refused { reason } => Verdict::Final { reason },
    }
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Post to the webhook of this index.
    Post { webhook: usize, attempt: u32 },
    /// Call [`Delivery::on_time`] at this time.
    WakeAt { at: UnixMs },
    /// The webhook did not get its notice.
    DeadLetter { webhook: usize, reason: String },
    /// Every webhook is done with: acknowledge the event.
    Acknowledge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Webhook {
    /// In the post; this many tries before.
    Posted {
        failed: u32,
    },
    Waiting {
        until: UnixMs,
        failed: u32,
    },
    Done,
}

/// One event on its way to its webhooks.
#[derive(Debug)]
pub struct Delivery {
    policy: Policy,
    webhooks: Vec<Webhook>,
    acknowledged: bool,
}

impl Delivery {
    /// Begins the delivery to so many webhooks.
    pub fn begin(policy: Policy, webhooks: usize) -> (Self, Vec<Effect>) {
        let mut delivery =
            Self { policy, webhooks: vec![Webhook::Posted { failed: 0 }; webhooks], acknowledged: false };
        let mut effects: Vec<_> = (0..webhooks).map(|webhook| Effect::Post { webhook, attempt: 1 }).collect();
        delivery.settle(&mut effects);
        (delivery, effects)
    }

    /// A post was answered. An answer that nothing waits for changes nothing.
    pub fn on_answer(&mut self, webhook: usize, answer: Answer, now: UnixMs) -> Vec<Effect> {
        let Some(Webhook::Posted { failed }) = self.webhooks.get(webhook).copied() else { return vec![] };
        let mut effects = vec![];
        match verdict(answer) {
            Verdict::Delivered => self.webhooks[webhook] = Webhook::Done,
            Verdict::Final { reason } => {
                self.webhooks[webhook] = Webhook::Done;
                effects.push(Effect::DeadLetter { webhook, reason });
            }
            Verdict::Passing { reason, .. } if failed + 1 >= self.policy.attempts => {
                self.webhooks[webhook] = Webhook::Done;
                effects.push(Effect::DeadLetter {
                    webhook,
                    reason: format!("{reason}, at the last of {} tries", failed + 1),
                });
            }
            Verdict::Passing { retry_after_ms, .. } => {
                let failed = failed + 1;
                let until = now.saturating_add(self.policy.pause_ms(failed, retry_after_ms));
                self.webhooks[webhook] = Webhook::Waiting { until, failed };
                effects.push(Effect::WakeAt { at: until });
            }
        }
        self.settle(&mut effects);
        effects
    }

    /// Time has passed: what is due is posted again.
    pub fn on_time(&mut self, now: UnixMs) -> Vec<Effect> {
        let mut effects = vec![];
        for (index, webhook) in self.webhooks.iter_mut().enumerate() {
            if let Webhook::Waiting { until, failed } = *webhook
                && until <= now
            {
                *webhook = Webhook::Posted { failed };
                effects.push(Effect::Post { webhook: index, attempt: failed + 1 });
            }
        }
        effects
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        if !self.acknowledged && self.webhooks.iter().all(|webhook| *webhook == Webhook::Done) {
            self.acknowledged = true;
            effects.push(Effect::Acknowledge);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy { attempts: 3, first_pause_ms: 100, longest_pause_ms: 1_000 };

    fn status(code: u16) -> Answer {
        Answer::Status { code, retry_after_ms: None }
    }

    #[test]
    fn nothing_to_post_is_done_at_once() {
        assert_eq!(Delivery::begin(POLICY, 0).1, [Effect::Acknowledge]);
    }

    #[test]
    fn the_event_is_done_with_its_last_webhook() {
        let (mut delivery, effects) = Delivery::begin(POLICY, 2);
        assert_eq!(effects, [Effect::Post { webhook: 0, attempt: 1 }, Effect::Post { webhook: 1, attempt: 1 }]);
        assert_eq!(delivery.on_answer(0, status(204), 10), []);
        assert_eq!(delivery.on_answer(0, status(204), 10), []);
        assert_eq!(delivery.on_answer(1, status(503), 10), [Effect::WakeAt { at: 110 }]);
        assert_eq!(delivery.on_time(109), []);
        assert_eq!(delivery.on_time(110), [Effect::Post { webhook: 1, attempt: 2 }]);
        assert_eq!(delivery.on_answer(1, status(200), 120), [Effect::Acknowledge]);
    }

    #[test]
    fn pauses_double_and_honor_the_receiver_within_bounds() {
        let pauses: Vec<_> = (1..7).map(|failed| POLICY.pause_ms(failed, None)).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(POLICY.pause_ms(1, Some(700)), 700);
        assert_eq!(POLICY.pause_ms(1, Some(60_000)), 1_000);
        assert_eq!(POLICY.pause_ms(u32::MAX, None), 1_000);
    }

    #[test]
    fn trouble_that_stays_ends_in_the_dead_letters() {
        let (mut delivery, _) = Delivery::begin(POLICY, 1);
        let late = || Answer::None { reason: "no answer within 5 s".into() };
        delivery.on_answer(0, late(), 0);
        delivery.on_time(1_000);
        delivery.on_answer(0, late(), 1_000);
        delivery.on_time(2_000);
        let reason = "no answer within 5 s, at the last of 3 tries".to_owned();
        assert_eq!(
            delivery.on_answer(0, late(), 2_000),
            [Effect::DeadLetter { webhook: 0, reason }, Effect::Acknowledge]
        );
    }

    #[test]
    fn a_refusal_is_not_tried_again() {
        for code in [301, 307, 400, 401, 404, 410] {
            let (mut delivery, _) = Delivery::begin(POLICY, 1);
            let effects = delivery.on_answer(0, status(code), 0);
            assert!(matches!(&effects[..], [Effect::DeadLetter { .. }, Effect::Acknowledge]), "{code}: {effects:?}");
        }
    }

    proptest! {
        /// Whatever is answered: it ends, each webhook is tried at most `attempts` times and not after it was
        /// delivered or given up, and the event is acknowledged once, as the last effect of all.
        #[test]
        fn every_delivery_ends(answers in prop::collection::vec(0..6u8, 0..60), webhooks in 0..4usize, attempts in 1..5u32) {
            let policy = Policy { attempts, ..POLICY };
            let (mut delivery, first) = Delivery::begin(policy, webhooks);
            let (mut answers, mut now) = (answers.into_iter(), 0);
            let mut posts = vec![0; webhooks];
            let mut ended = vec![0; webhooks];
            let mut due: std::collections::VecDeque<_> = first.into();
            let mut acknowledged = false;
            while let Some(effect) = due.pop_front() {
                prop_assert!(!acknowledged, "an effect after the acknowledgement");
                match effect {
                    Effect::Post { webhook, attempt } => {
                        posts[webhook] += 1;
                        prop_assert_eq!(posts[webhook], attempt);
                        prop_assert!(attempt <= attempts && ended[webhook] == 0);
                        let answer = match answers.next().unwrap_or(0) {
                            0 => status(200),
                            1 => status(500),
                            2 => status(404),
                            3 => Answer::None { reason: "reset".into() },
                            4 => Answer::Refused { reason: "host".into() },
                            _ => Answer::Status { code: 429, retry_after_ms: Some(5_000) },
                        };
                        ended[webhook] += usize::from(answer == status(200));
                        due.extend(delivery.on_answer(webhook, answer, now));
                    }
                    Effect::WakeAt { at } => {
                        now = now.max(at);
                        due.extend(delivery.on_time(now));
                    }
                    Effect::DeadLetter { webhook, .. } => ended[webhook] += 1,
                    Effect::Acknowledge => acknowledged = true,
                }
            }
            prop_assert!(acknowledged);
            prop_assert!(ended.iter().all(|count| *count == 1));
        }
    }
}
