"""Conformance suites: what gdist asks of a student, a teacher, an encoding, a loss, a probe or a kind of manifest.

    from gdist.stages.testing import StudentSuite
    from own_student import LSTMStudent

    class TestLSTM(StudentSuite):
        student = LSTMStudent

pytest runs it; gdist's own rows go through the same suites. Each says in its docstring what it wants to know. They
need no network, no data and no fixture but pytest's ``tmp_path``, and take seconds. What is tested stands in a file
of its own, not in the test's: an export carries that file along.
"""

import sys

if pytest := sys.modules.get("pytest"):  # so that a failed assert shows its values, as in a test's own file
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
