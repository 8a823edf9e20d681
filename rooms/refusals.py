"""Why a command is refused: a stable code for programs, a sentence in Chinese and English for people."""

from __future__ import annotations

from core.errors import LianxinError

# code → HTTP status, Chinese, English
REFUSALS: dict[str, tuple[int, str, str]] = {
    "meeting_unknown": (404, "没有这个会议。", "There is no such meeting."),
    "meeting_ended": (409, "会议已结束。", "The meeting has ended."),
    "unknown_venue": (404, "没有这个会场。", "There is no such venue."),
    "not_in_meeting": (404, "该会场不在本次会议中。", "This venue is not listed in this meeting."),
    "forbidden": (403, "您没有这项操作的权限。", "You are not allowed to do this."),
    "venue_required": (422, "请指明会场。", "Name the venue."),
    "not_connected": (409, "该会场尚未入会。", "This venue is not connected."),
    "no_picture": (
        409,
        "该会场没有图像，无法广播。",
        "This venue sends no picture and cannot be broadcast.",
    ),
    "floor_held": (
        409,
        "正在点名发言，请用“自由讨论”结束。",
        "A venue has the floor; end it with free discussion.",
    ),
    "has_floor": (409, "本会场正在发言，无需申请。", "This venue already has the floor."),
    "not_calling": (409, "当前没有呼叫本会场。", "This venue is not being called."),
    "main_venue": (
        409,
        "主会场不能挂断，请结束会议。",
        "The main venue cannot be hung up; end the meeting instead.",
    ),
    "locked": (409, "会议已锁定，不再接纳新的会场。", "The meeting is locked: no new venue may join."),
    "hung_up": (409, "主席已挂断本会场，请等待呼叫。", "The chair has hung up this venue; wait for a call."),
    "recording_failed": (
        503,
        "录制未能开始，请检查录制目录和磁盘空间。",
        "The recording could not begin; check its folder and the free disk space.",
    ),
    "too_many_venues": (422, "会场数超过上限。", "Too many venues for one meeting."),
    "overloaded": (503, "会议繁忙，请稍后再试。", "The meeting is too busy; try again shortly."),
    "storage_failed": (503, "状态未能保存，操作未执行。", "The state could not be saved; nothing was done."),
}


class Refused(LianxinError):
    """A command that a rule or a right stands against.  The meeting is unchanged."""

    def __init__(self, code: str) -> None:
        status, message, message_en = REFUSALS[code]
        super().__init__(code, status, message, message_en)
