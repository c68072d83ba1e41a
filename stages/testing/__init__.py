"""Conformance suites: what gdist requires of a student, teacher, encoding, loss, probe or kind of manifest.

    from gdist.stages.testing import StudentSuite
    from own_student import LSTMStudent

    class TestLSTM(StudentSuite):
        student = LSTMStudent

pytest runs the class, and gdist's own rows pass the same suites. The docstring of each suite says what it checks. The
suites need no network, no data and no fixture except pytest's ``tmp_path``, and take seconds. Put the tested class in
a file of its own, not in the test file: an export includes that file.
"""

import sys

if pytest := sys.modules.get("pytest"):  # so that a failed assert shows its values, as it does in a test file
    pytest.register_assert_rewrite(
        *(f"{__name__}.{kind}" for kind in ("student", "teacher", "encoding", "loss", "probe", "manifest"))
    )

from gdist.stages.testing.encoding import EncodingSuite
from gdist.stages.testing.loss import LossSuite
from gdist.stages.testing.manifest import ManifestSuite
from gdist.stages.testing.probe import ProbeSuite
from gdist.stages.testing.student import StudentSuite
from gdist.stages.testing.teacher import TeacherSuite

__all__ = ["EncodingSuite", "LossSuite", "ManifestSuite", "ProbeSuite", "StudentSuite", "TeacherSuite"]
