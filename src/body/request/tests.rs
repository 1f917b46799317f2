use std::collections::VecDeque;

use http_body_util::Full;

use super::{super::frames::Frames, *};

/// Untouched, kept, too large to be kept, and sent.
#[test]
fn a_whole_body_stays_one_for_a_service_that_takes_no_other() {
    let frames = |body: &'static [u8]| {
        let mut frames = Frames::default();
        frames.push(Bytes::from_static(body));
        frames
    };
    let whole = || Full::new(Bytes::from_static(b"all"));
    let kept = BufferedBody::new(frames(b"all"), None);
    let begun = BufferedBody::new(frames(b"all of it, and "), None);
    let mut sent: RequestBody<Full<Bytes>> = RequestBody::buffered(kept.clone());
    let _ = Pin::new(&mut sent).poll_frame(&mut Context::from_waker(Waker::noop()));
    for (body, expected) in [
        (RequestBody::untouched(whole()), "all"),
        (RequestBody::buffered(kept), "all"),
        (RequestBody::begun(begun, whole()), "all of it, and all"),
        (RequestBody::default(), ""),
        (sent, ""),
    ] {
        assert_eq!(body.whole().unwrap(), expected);
    }
}

#[test]
fn a_whole_body_that_came_in_one_piece_is_not_copied() {
    let piece = Bytes::from_static(b"all");
    let body: RequestBody<Full<Bytes>> = RequestBody::buffered(piece.clone().into());
    assert_eq!(body.whole().unwrap().as_ptr(), piece.as_ptr());
}

/// By what a client may know that all of a body has come, without asking for more.
#[derive(Clone, Copy, PartialEq)]
enum Knows {
    Nothing,
    End,
    Length,
}

struct Rest {
    frames: VecDeque<Result<&'static str, &'static str>>,
    knows: Knows,
}

impl Body for Rest {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let frame = self.frames.pop_front();
        Poll::Ready(frame.map(|frame| frame.map(|data| Frame::data(data.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.knows == Knows::End && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.frames.iter().flatten();
        let left = data.map(|data| data.len() as u64).sum();
        match self.knows {
            Knows::Length => SizeHint::with_exact(left),
            Knows::Nothing | Knows::End => SizeHint::default(),
        }
    }
}

/// Each piece of it could be the end of a request with another id.
const PIECES: [&str; 3] = [
    r#"{"method":"tools/call","params":{"n":0,"id":1}"#,
    r#","more":{"n":0,"id":2}"#,
    r#","id":7}"#,
];

fn noted(ends: &Ends) -> Option<String> {
    ends.request_id().map(|id| id.to_string())
}

/// F4, G5: it is noted as soon as the client has it, who may not ask whether there is more.
#[test]
fn g5_the_end_of_a_large_request_is_noted_when_it_has_come_and_not_before() {
    let cx = &mut Context::from_waker(Waker::noop());
    for knows in [Knows::Nothing, Knows::End, Knows::Length] {
        let rest = Rest {
            frames: PIECES[1..].iter().map(|piece| Ok(*piece)).collect(),
            knows,
        };
        let mut body = RequestBody::begun(Bytes::from(PIECES[0]).into(), rest);
        let ends = body.ends().unwrap();
        for piece in PIECES {
            assert_eq!(noted(&ends), None, "before {piece}");
            let frame = Pin::new(&mut body).poll_frame(cx);
            assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
        }
        if knows == Knows::Nothing {
            assert_eq!(noted(&ends), None);
            assert!(matches!(
                Pin::new(&mut body).poll_frame(cx),
                Poll::Ready(None)
            ));
        }
        assert_eq!(noted(&ends).as_deref(), Some("7"));
    }
}

#[test]
fn g5_the_end_of_a_large_request_may_have_been_read_with_its_beginning() {
    for (knows, has_come) in [
        (Knows::Nothing, false),
        (Knows::End, true),
        (Knows::Length, true),
    ] {
        let rest = Rest {
            frames: VecDeque::new(),
            knows,
        };
        let body = RequestBody::begun(Bytes::from(PIECES.concat()).into(), rest);
        let id = noted(&body.ends().unwrap());
        assert_eq!(id.as_deref(), has_come.then_some("7"));
    }
}

#[test]
fn g5_a_large_request_that_broke_off_has_no_end() {
    let rest = Rest {
        frames: [Err("reset")].into(),
        knows: Knows::End,
    };
    let mut body = RequestBody::begun(Bytes::from(PIECES[0]).into(), rest);
    let cx = &mut Context::from_waker(Waker::noop());
    let _ = Pin::new(&mut body).poll_frame(cx);
    let broken = Pin::new(&mut body).poll_frame(cx);
    assert!(matches!(broken, Poll::Ready(Some(Err("reset")))));
    assert_eq!(noted(&body.ends().unwrap()), None);
}
