//! The cookies that tie a session to a replica (rule E11; RFC 6265, 4).

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, COOKIE, SET_COOKIE},
};

/// How many cookies a handshake may set, as browsers allow for a host at least (RFC 6265, 6.1), how
/// long each may be, and how many of their earlier values are known, besides that of the trigger.
const MAX_COOKIES: usize = 50;
const MAX_LEN: usize = 4096;
const MAX_OUTDATED: usize = 4;

/// The cookies that the answers of a handshake set.
#[derive(Clone, Default)]
pub(crate) struct Affinity {
    cookies: Vec<Cookie>,
    /// As they came.
    set_cookie: Vec<HeaderValue>,
}

#[derive(Clone)]
struct Cookie {
    name: Vec<u8>,
    /// `None` if the server takes the cookie back.
    value: Option<Vec<u8>>,
    /// What callers may still send in its place.
    outdated: Vec<Vec<u8>>,
}

impl Affinity {
    /// Learns what an answer sets.
    pub(crate) fn learn(&mut self, answer: &HeaderMap) {
        for set_cookie in answer.get_all(SET_COOKIE) {
            let set = pair(set_cookie.as_bytes());
            // What is set again takes the place of what was set before.
            let is_other = |it: &HeaderValue| {
                set.is_none_or(|(name, _)| {
                    pair(it.as_bytes()).is_none_or(|(other, _)| other != name)
                })
            };
            let others = self.set_cookie.iter().filter(|it| is_other(it)).count();
            if set_cookie.len() > MAX_LEN || others >= MAX_COOKIES {
                continue;
            }
            self.set_cookie.retain(is_other);
            let mut secret = set_cookie.clone();
            secret.set_sensitive(true);
            self.set_cookie.push(secret);
            // What has no name is none to be sent back, and for the caller to make sense of.
            let Some((name, value)) = set else { continue };
            self.cookies.retain(|cookie| cookie.name != name);
            self.cookies.push(Cookie {
                name: name.to_vec(),
                value: (!is_removal(set_cookie.as_bytes())).then(|| value.to_vec()),
                outdated: Vec::new(),
            });
        }
    }

    /// Notes what callers may still send: what was known `before`, and what the `trigger` had.
    pub(crate) fn outdate(&mut self, before: Option<&Self>, trigger: &HeaderMap) {
        let before = before.map_or(&[][..], |before| &before.cookies);
        self.keep_on(before, trigger);
        for cookie in &mut self.cookies {
            let earlier = before.iter().find(|it| it.name == cookie.name);
            let sent = sent_values(trigger, &cookie.name).map(<[u8]>::to_vec);
            // Most jars have the latest of all. What is left out is the oldest.
            let latest = earlier.and_then(|it| it.value.clone()).into_iter();
            let older = earlier.into_iter().flat_map(|it| it.outdated.clone());
            for value in latest.chain(sent).chain(older) {
                if Some(&value) != cookie.value.as_ref()
                    && !cookie.outdated.contains(&value)
                    && cookie.outdated.len() < 1 + MAX_OUTDATED
                {
                    cookie.outdated.push(value);
                }
            }
        }
    }

    /// A handshake that went out with a cookie as it was, and was not given another, leads to where
    /// that leads. What was taken back is taken back still.
    fn keep_on(&mut self, before: &[Cookie], trigger: &HeaderMap) {
        for cookie in before {
            let is_set_anew = self.cookies.iter().any(|it| it.name == cookie.name);
            let is_as_it_was = match &cookie.value {
                Some(value) => sent_values(trigger, &cookie.name).next() == Some(&**value),
                None => true,
            };
            if is_as_it_was && !is_set_anew && self.cookies.len() < MAX_COOKIES {
                self.cookies.push(Cookie {
                    outdated: Vec::new(),
                    ..cookie.clone()
                });
            }
        }
    }

    /// What it holds, about, in bytes (rule K10).
    pub(crate) fn bytes(&self) -> usize {
        let cookies = self.cookies.iter().map(|cookie| {
            let outdated = cookie.outdated.iter().map(Vec::len).sum::<usize>();
            cookie.name.len() + cookie.value.as_ref().map_or(0, Vec::len) + outdated
        });
        let set_cookie = self.set_cookie.iter().map(HeaderValue::len);
        cookies.sum::<usize>() + set_cookie.sum::<usize>()
    }

    /// A caller's request that carries an outdated value gets the new one.
    #[inline]
    pub(crate) fn translate(&self, headers: &mut HeaderMap) {
        if self.cookies.is_empty() {
            return;
        }
        self.rewrite(headers, |cookie, value| {
            cookie.outdated.iter().any(|outdated| outdated == value)
        });
    }

    /// A request that is sent again goes where the session is. It gets what it did not have if it is sent as the
    /// handshake was, so that nobody is lent another's, and if it sends cookies at all.
    pub(crate) fn replay(&self, headers: &mut HeaderMap, handshake: &HeaderMap) {
        // What it sends may all be taken back.
        let sends_cookies = headers.contains_key(COOKIE);
        self.translate(headers);
        if !sends_cookies || headers.get(AUTHORIZATION) != handshake.get(AUTHORIZATION) {
            return;
        }
        let sent = headers.get_all(COOKIE).iter().cloned();
        let mut all: HeaderMap = sent.map(|cookies| (COOKIE, cookies)).collect();
        self.add_missing(&mut all);
        // Some jars have no order.
        let [mut own, mut theirs] =
            [&all, handshake].map(|headers| sent_cookies(headers).collect::<Vec<_>>());
        own.sort_unstable();
        theirs.sort_unstable();
        if own == theirs {
            self.add_missing(headers);
        }
    }

    /// A request of the layer's own gets all of them.
    pub(crate) fn insert(&self, headers: &mut HeaderMap) {
        self.rewrite(headers, |_, _| true);
        self.add_missing(headers);
    }

    fn add_missing(&self, headers: &mut HeaderMap) {
        let missing: Vec<_> = self
            .cookies
            .iter()
            .filter(|cookie| !sent_cookies(headers).any(|(name, _)| name == cookie.name))
            .filter_map(|cookie| Some([&cookie.name[..], b"=", cookie.value.as_ref()?].concat()))
            .collect();
        if missing.is_empty() {
            return;
        }
        // One header field, as HTTP/1.1 clients send it.
        let sent = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
        let all: Vec<_> = sent.chain(missing.iter().map(Vec::as_slice)).collect();
        if let Some(value) = sensitive(&all.join(&b"; "[..])) {
            headers.insert(COOKIE, value);
        }
    }

    /// Tells a caller of what was set while it waited; what its own answer, which came later, sets
    /// comes after.
    pub(crate) fn tell_before(&self, answer: &mut HeaderMap) {
        if self.set_cookie.is_empty() {
            return;
        }
        let own: Vec<_> = answer.get_all(SET_COOKIE).iter().cloned().collect();
        answer.remove(SET_COOKIE);
        for set_cookie in self.set_cookie.iter().chain(&own) {
            answer.append(SET_COOKIE, set_cookie.clone());
        }
    }

    /// The same on an answer that came before it was set. The last word counts.
    pub(crate) fn tell_after(&self, answer: &mut HeaderMap) {
        for set_cookie in &self.set_cookie {
            answer.append(SET_COOKIE, set_cookie.clone());
        }
    }

    /// Gives those of the cookies sent whose value is to be changed their new one, and leaves out those
    /// that the server took back.
    fn rewrite(&self, headers: &mut HeaderMap, is_to_change: impl Fn(&Cookie, &[u8]) -> bool) {
        let change = |text: &[u8]| {
            let (name, value) = pair(text)?;
            let cookie = self.cookies.iter().find(|cookie| cookie.name == name)?;
            let is_new = cookie.value.as_deref() == Some(value);
            (!is_new && is_to_change(cookie, value)).then_some(cookie)
        };
        let fields = headers.get_all(COOKIE).iter();
        if !fields.flat_map(cookies).any(|text| change(text).is_some()) {
            return;
        }
        let rewritten: Vec<_> = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|field| {
                let kept = cookies(field).filter_map(|text| match change(text) {
                    Some(Cookie { name, value, .. }) => {
                        Some([name.as_slice(), b"=", value.as_deref()?].concat())
                    }
                    None => Some(text.to_vec()),
                });
                let kept: Vec<_> = kept.collect();
                let field = sensitive(&kept.join(&b"; "[..]));
                field.filter(|field| !field.is_empty())
            })
            .collect();
        headers.remove(COOKIE);
        for field in rewritten {
            headers.append(COOKIE, field);
        }
    }
}

/// The cookies of a field.
fn cookies(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    field
        .as_bytes()
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
}

/// Name and value of a cookie, up to the attributes.
fn pair(cookie: &[u8]) -> Option<(&[u8], &[u8])> {
    let cookie = cookie.split(|byte| *byte == b';').next()?;
    let equals = memchr::memchr(b'=', cookie)?;
    let name = cookie[..equals].trim_ascii();
    (!name.is_empty()).then(|| (name, cookie[equals + 1..].trim_ascii()))
}

/// Whether a `Set-Cookie` takes a cookie back. `Max-Age` comes before `Expires`, and of each the last
/// one that can be read counts (RFC 6265, 5.3).
fn is_removal(set_cookie: &[u8]) -> bool {
    let (mut is_over, mut is_past) = (None, false);
    let attributes = set_cookie.split(|byte| *byte == b';').skip(1);
    for (name, value) in attributes.filter_map(pair) {
        if name.eq_ignore_ascii_case(b"max-age") {
            let digits = value.strip_prefix(b"-").unwrap_or(value);
            if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
                let is_negative = digits.len() < value.len();
                is_over = Some(is_negative || digits.iter().all(|digit| *digit == b'0'));
            }
        } else if name.eq_ignore_ascii_case(b"expires") {
            is_past = year(value).map_or(is_past, |year| year < this_year());
        }
    }
    is_over.unwrap_or(is_past)
}

/// The year of a date: of its numbers the first with four digits. It is all of a date that is read,
/// since those who take a cookie back with one take one of long ago. Not seen are a day of this year
/// that is over, and a year of two digits.
fn year(date: &[u8]) -> Option<u64> {
    let mut numbers = date.split(|byte| !byte.is_ascii_digit());
    let year = numbers.find(|number| number.len() == 4)?;
    let year = std::str::from_utf8(year).ok()?.parse().ok()?;
    // Those before are no dates (RFC 6265, 5.1.1).
    (year >= 1601).then_some(year)
}

/// About: for the first days of a year it is still the one before. A clock that was never set stands
/// in 1970, which is over.
fn this_year() -> u64 {
    const YEAR: u64 = 31_556_952;
    const LATE: Duration = Duration::from_secs(2 * 24 * 60 * 60);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().saturating_sub(LATE);
    (1970 + now.as_secs() / YEAR).max(1971)
}

fn sent_cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let fields = headers.get_all(COOKIE).iter();
    fields.flat_map(cookies).filter_map(pair)
}

/// The values of the cookies of this name.
fn sent_values<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let sent = sent_cookies(headers).filter(move |(it, _)| *it == name);
    sent.map(|(_, value)| value)
}

fn sensitive(value: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|it| HeaderValue::from_static(it));
        values.map(|value| (name.clone(), value)).collect()
    }

    fn affinity(set: &[&'static str], trigger: &[&'static str]) -> Affinity {
        let mut affinity = Affinity::default();
        affinity.learn(&headers(SET_COOKIE, set));
        affinity.outdate(None, &headers(COOKIE, trigger));
        affinity
    }

    #[test]
    fn e11_what_still_carries_the_triggers_value_gets_the_new_one_and_nothing_else() {
        let affinity = affinity(&["route=b; Path=/"], &["user=1; route=a"]);
        for (sent, out) in [
            ("user=1; route=a", "user=1; route=b"),
            ("route=c", "route=c"),
            ("route=b", "route=b"),
            ("user=1", "user=1"),
        ] {
            let mut request = headers(COOKIE, &[sent]);
            affinity.translate(&mut request);
            assert_eq!(request[COOKIE], out, "{sent}");
        }
        let mut none = HeaderMap::new();
        affinity.translate(&mut none);
        affinity.replay(&mut none, &headers(COOKIE, &["route=b"]));
        assert!(
            none.is_empty(),
            "a caller that sends no cookies is given none"
        );
    }

    #[test]
    fn e11_a_replay_gets_what_its_caller_does_not_have_yet() {
        let trigger = "route=a; user=1";
        let affinity = affinity(&["route=b", "zone=1; HttpOnly"], &[trigger]);
        let mut handshake = headers(COOKIE, &[trigger]);
        affinity.insert(&mut handshake);
        let mut request = headers(COOKIE, &["user=1", "route=a"]);
        affinity.replay(&mut request, &handshake);
        assert_eq!(request[COOKIE], "user=1; route=b; zone=1");
        let mut request = headers(COOKIE, &["route=a; user=1"]);
        affinity.replay(&mut request, &handshake);
        assert_eq!(request[COOKIE], "route=b; user=1; zone=1");
        assert!(request[COOKIE].is_sensitive());
    }

    #[test]
    fn e11_a_replay_gets_what_is_new_also_if_all_that_it_has_is_taken_back() {
        let affinity = affinity(&["old=; Max-Age=0", "route=b"], &["old=1"]);
        let handshake = headers(COOKIE, &["route=b"]);
        let mut request = headers(COOKIE, &["old=1"]);
        affinity.replay(&mut request, &handshake);
        assert_eq!(request[COOKIE], "route=b");
    }

    #[test]
    fn e11_the_layers_own_requests_carry_what_was_set_and_not_what_was_taken_back() {
        let mut own = HeaderMap::new();
        affinity(&["route=b", "gone=1; Max-Age=0"], &[]).insert(&mut own);
        assert_eq!(own[COOKIE], "route=b");
    }

    #[test]
    fn e11_a_cookie_that_the_server_took_back_is_left_out() {
        let affinity = affinity(&["route=; Max-Age=0"], &["route=a; user=1"]);
        for (sent, replayed, later) in [
            ("route=a; user=1", Some("user=1"), Some("user=1")),
            ("route=a", None, None),
            ("route=c", Some("route=c"), Some("route=c")),
        ] {
            let mut replay = headers(COOKIE, &[sent]);
            let mut request = replay.clone();
            affinity.replay(&mut replay, &headers(COOKIE, &["user=1"]));
            assert_eq!(replay.get(COOKIE).map(|it| it.to_str().unwrap()), replayed);
            affinity.translate(&mut request);
            assert_eq!(request.get(COOKIE).map(|it| it.to_str().unwrap()), later);
        }
    }

    #[test]
    fn e11_earlier_values_are_outdated_in_every_later_epoch() {
        let first = affinity(&["route=b"], &["route=a"]);
        let mut second = Affinity::default();
        second.learn(&headers(SET_COOKIE, &["route=c"]));
        second.outdate(Some(&first), &headers(COOKIE, &["route=b"]));
        for sent in ["route=a", "route=b"] {
            let mut request = headers(COOKIE, &[sent]);
            second.translate(&mut request);
            assert_eq!(request[COOKIE], "route=c", "{sent}");
        }
    }

    #[test]
    fn e11_a_cookie_that_ends_some_day_is_not_taken_back() {
        let mut own = HeaderMap::new();
        let set = [
            "route=b; Max-Age=3600",
            "zone=1; Expires=Wed, 09 Jun 2100 10:18:14 GMT",
            "gone=1; Max-Age=-1",
            "past=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        ];
        affinity(&set, &[]).insert(&mut own);
        assert_eq!(own[COOKIE], "route=b; zone=1");
    }

    #[test]
    fn e11_a_few_earlier_values_are_known_each_once_and_the_present_one_is_none() {
        let cookie = "route=new; route=1; route=1; route=2; route=3; route=4; route=5";
        let affinity = affinity(&["route=new"], &[cookie]);
        let known = affinity.cookies[0].outdated.iter().map(|it| &**it);
        assert!(known.eq([b"1", b"2", b"3", b"4", b"5"]));
    }

    /// What a jar may have: what the trigger had, which need not be the latest, and the latest ones.
    #[test]
    fn e11_the_earlier_values_that_are_known_are_the_latest_ones() {
        // Given a caller whose jar never learns what is set,
        let mut affinity = affinity(&["route=1"], &["route=0"]);
        for epoch in 2..=9 {
            let mut next = Affinity::default();
            let set = HeaderValue::from_str(&format!("route={epoch}")).unwrap();
            next.learn(&HeaderMap::from_iter([(SET_COOKIE, set)]));
            next.outdate(Some(&affinity), &headers(COOKIE, &["route=0"]));
            affinity = next;
        }
        let known = affinity.cookies[0].outdated.iter().map(|it| &**it);
        assert!(known.eq([b"8", b"0", b"7", b"6", b"5"]));
    }

    #[test]
    fn e11_what_a_handshake_does_not_set_anew_is_as_it_was() {
        let set = ["route=b", "zone=1", "gone=; Max-Age=0"];
        let before = affinity(&set, &["route=a; zone=0; gone=x"]);
        // Given a trigger that had one cookie as it was, and of the other another's,
        let mut after = Affinity::default();
        after.outdate(
            Some(&before),
            &headers(COOKIE, &["route=b; zone=2; gone=x"]),
        );

        // then callers are led on by the one, what was taken back stays taken back,
        for (sent, out) in [
            ("route=a; gone=x", Some("route=b")),
            ("route=b", Some("route=b")),
            ("gone=x", None),
            ("gone=y", Some("gone=y")),
            // and of the other nothing is known: where the session is, nobody was told.
            ("zone=0", Some("zone=0")),
            ("zone=2", Some("zone=2")),
        ] {
            let mut request = headers(COOKIE, &[sent]);
            after.translate(&mut request);
            let translated = request.get(COOKIE).map(|it| it.to_str().unwrap());
            assert_eq!(translated, out, "{sent}");
        }
        // Nor does the trigger have to be told of anything.
        let mut answer = HeaderMap::new();
        after.tell_before(&mut answer);
        after.tell_after(&mut answer);
        assert!(answer.is_empty());

        // What is set anew, or taken back in its turn, is that.
        for (set, out) in [("route=c", Some("route=c")), ("route=; Max-Age=0", None)] {
            let mut after = Affinity::default();
            after.learn(&headers(SET_COOKIE, &[set]));
            after.outdate(Some(&before), &headers(COOKIE, &["route=b"]));
            for sent in ["route=a", "route=b"] {
                let mut request = headers(COOKIE, &[sent]);
                after.translate(&mut request);
                let translated = request.get(COOKIE).map(|it| it.to_str().unwrap());
                assert_eq!(translated, out, "{sent} {set}");
            }
        }
    }

    #[test]
    fn k10_what_the_cookies_hold_counts() {
        let affinity = affinity(&["route=new", "a=; Max-Age=0"], &["route=old; a=earlier"]);
        let (set, kept) = (
            "route=newa=; Max-Age=0".len(),
            "routenewolda".len() + "earlier".len(),
        );
        assert_eq!(affinity.bytes(), set + kept);
    }

    #[test]
    fn e11_a_cookie_of_more_than_4_kib_is_not_kept() {
        for (len, kept) in [(MAX_LEN, 1), (MAX_LEN + 1, 0)] {
            let cookie = format!("route={}", "x".repeat(len - "route=".len()));
            let mut affinity = Affinity::default();
            let cookie = HeaderValue::from_str(&cookie).unwrap();
            affinity.learn(&HeaderMap::from_iter([(SET_COOKIE, cookie)]));
            assert_eq!(affinity.cookies.len(), kept);
        }
    }

    #[test]
    fn e11_a_server_cannot_have_the_layer_hold_more_than_a_few_cookies() {
        let mut affinity = Affinity::default();
        let many: HeaderMap = (0..1000)
            .map(|n| {
                let cookie = format!("c{n}=1");
                (SET_COOKIE, HeaderValue::from_str(&cookie).unwrap())
            })
            .collect();
        affinity.learn(&many);
        assert_eq!(affinity.cookies.len(), MAX_COOKIES);
        // Nor by setting others in each epoch.
        let mut next = Affinity::default();
        next.learn(&headers(SET_COOKIE, &["other=1"]));
        let all: Vec<_> = (0..1000).map(|n| format!("c{n}=1")).collect();
        let all = HeaderValue::from_str(&all.join("; ")).unwrap();
        next.outdate(Some(&affinity), &HeaderMap::from_iter([(COOKIE, all)]));
        assert_eq!(next.cookies.len(), MAX_COOKIES);
    }
}
