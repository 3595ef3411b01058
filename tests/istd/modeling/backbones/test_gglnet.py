"""The parts that GGLNet adds to ALCLNet."""

import torch

from istd.modeling import build_network
from istd.modeling.backbones.gglnet import GradientSupplement, MutualFusion, gradient_image


def test_gradient_image_by_hand():
    image = torch.tensor([[0.0, 0, 0, 0], [0, 4, 8, 0], [0, 0, 0, 0]])[None, None]
    found = gradient_image(image)[0, 0]
    assert found[1].tolist() == [2, 4, 2, 4]
    assert found[0].tolist() == found[2].tolist() == [0, 2, 4, 0]
    assert (gradient_image(torch.randn(2, 3, 5, 7)) >= 0).all()


def test_flat_images_give_finite_gradients():
    network = build_network("GGLNet").train()
    x = torch.zeros(2, 3, 16, 16, requires_grad=True)
    network(x).sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in network.parameters())


def test_every_stage_sees_the_gradient_image_at_its_size():
    torch.manual_seed(0)
    network, sizes = build_network("GGLNet").eval(), []
    for supplement in network.stage.supplements:
        supplement.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[1].shape[-2:]))
    network.encoder(torch.randn(1, 3, 32, 48))
    assert [tuple(size) for size in sizes] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]


def test_supplement_and_fusion_by_hand():
    torch.manual_seed(0)
    supplement = GradientSupplement(3, 8).eval()
    x, gradient = torch.randn(2, 8, 4, 4), torch.rand(2, 3, 4, 4)
    inner = supplement.gradient(gradient)
    assert inner.min() >= 0
    expected = (supplement.join(torch.cat([x, inner], 1)) + x).clamp(min=0)
    assert torch.allclose(supplement(x, gradient), expected, atol=1e-6)
    fusion = MutualFusion(16, 8).eval()
    deep, shallow = torch.randn(1, 16, 2, 2), torch.randn(1, 8, 4, 4)
    high = fusion.hl_layer(deep)
    expected = shallow * fusion.hl_layer_2(high) + high * fusion.ll_layer(shallow)
    assert high.shape == shallow.shape and torch.allclose(fusion(deep, shallow), expected, atol=1e-6)
