"""Both networks satisfy the protocol of a student."""

import pytest
from torch import nn

from s4m.modeling.mask2former import S4MMask2Former
from s4m.modeling.rcnn import S4MRCNN
from s4m.modeling.student import Student
from s4m.modeling.teacher_student import TeacherStudent


@pytest.mark.parametrize("network", [S4MRCNN, S4MMask2Former])
def test_networks_satisfy_the_protocol(network):
    assert issubclass(network, Student) and issubclass(network, nn.Module)


def test_a_network_that_cannot_teach_is_no_student():
    class Untaught(nn.Module):
        def losses_and_features(self, batched_inputs):
            raise NotImplementedError

    assert not issubclass(Untaught, Student) and not issubclass(TeacherStudent, Student)
