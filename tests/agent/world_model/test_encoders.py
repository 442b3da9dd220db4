import pytest
import torch
from torch import nn

from forethought.agent.world_model.encoders import (
    IdentityEncoder,
    ObsEncoder,
    PixelEncoder,
    SimNorm,
    SpatialSoftmax,
    flat_vectors,
    mlp,
)
from forethought.envs.spec import ArraySpec

OBS = {
    "b": ArraySpec((3,), "float32"),
    "a": ArraySpec((2, 2), "float32"),
    "front": ArraySpec((16, 8, 6), "uint8"),
    "wrist": ArraySpec((8, 8, 3), "uint8"),
}
VECTORS = {key: spec for key, spec in OBS.items() if not spec.is_image}


def test_mlp_has_norm_and_activation_between_linear_layers_only() -> None:
    kinds = [type(layer) for layer in mlp([3, 4, 5, 6])]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.SiLU, nn.Linear, nn.LayerNorm, nn.SiLU, nn.Linear]
    assert [type(layer) for layer in mlp([3, 4, 5], norm=False)] == [nn.Linear, nn.SiLU, nn.Linear]
    assert [type(layer) for layer in mlp([3, 5])] == [nn.Linear]
    assert mlp([3, 4, 5])(torch.zeros(2, 7, 3)).shape == (2, 7, 5)


def test_simnorm_is_a_softmax_of_each_group() -> None:
    z = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    out = SimNorm(4)(z)
    assert out.shape == z.shape
    assert torch.allclose(out[..., 1::3], z[..., 1::3].softmax(-1))


@torch.no_grad()
def test_flat_vectors_flatten_in_the_given_order() -> None:
    obs = {"a": torch.arange(8.0).view(2, 2, 2), "b": torch.arange(6.0).view(2, 3)}
    flat = flat_vectors(obs, VECTORS)  # b before a
    assert flat.tolist() == [[0, 1, 2, 0, 1, 2, 3], [3, 4, 5, 4, 5, 6, 7]]
    assert flat_vectors({k: v[0] for k, v in obs.items()}, VECTORS).tolist() == flat[0].tolist()
    assert flat_vectors(obs, {"a": OBS["a"]}).shape == (2, 4)
    assert flat_vectors({"x": torch.zeros(2, 3)}, {"x": ArraySpec((), "float32")}).shape == (2, 3, 1)


def test_identity_encoder_sorts_keys() -> None:
    obs = {"b": torch.ones(2, 3), "a": torch.zeros(2, 2, 2)}
    assert IdentityEncoder(VECTORS)(obs).tolist() == [[0, 0, 0, 0, 1, 1, 1]] * 2


@pytest.mark.parametrize("pooling", ["flatten", "keypoints"])
@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0,)])
@torch.no_grad()
def test_pixel_encoder_shapes(lead: tuple[int, ...], pooling: str) -> None:
    encoder = PixelEncoder((16, 8, 6), (4, 8), 12, 10, pooling)
    frames = torch.randint(256, (*lead, 16, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert encoder(frames).shape == (*lead, 10)


@pytest.mark.parametrize("side", [8, 9, 15, 16, 23])
@torch.no_grad()
def test_pixel_encoder_quarters_then_halves(side: int) -> None:
    frames = torch.zeros(1, side, 16, 3, dtype=torch.uint8)
    encoder = PixelEncoder((side, 16, 3), (4, 5), 12, 10)
    assert encoder.convolutions(frames.permute(0, 3, 1, 2).float()).shape == (1, 5, side // 4 // 2, 2)
    assert encoder(frames).shape == (1, 10)


@torch.no_grad()
def test_spatial_softmax_says_where_a_channel_responds() -> None:
    responses = torch.zeros(3, 2, 5, 9)
    responses[0, 0, 1, 8] = responses[0, 1, 4, 0] = 100
    responses[1, 0, 2, 4] = responses[1, 1, 0, 2] = 100
    places = SpatialSoftmax(2, 5, 9)(responses)
    assert torch.allclose(places, torch.tensor([[1, -0.5, -1, 1], [0, 0, -0.5, -1], [0, 0, 0, 0]]), atol=1e-5)


@torch.no_grad()
def test_keypoints_move_as_the_picture_does() -> None:
    encoder = PixelEncoder((64, 48, 3), (4, 6), 12, 10, pooling="keypoints")
    encoder.convolutions[-1].sharpness.fill_(1000.0)  # type: ignore[operator, union-attr]  # near to the strongest alone
    frames = torch.zeros(2, 64, 48, 3, dtype=torch.uint8)
    frames[:, 20:28, 20:26] = torch.randint(256, (8, 6, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    frames[1] = frames[0].roll((12, -8), dims=(0, 1))  # three places down of sixteen, two to the left of twelve
    assert encoder(frames).shape == (2, 10)
    encoder.get_buffer("background").zero_()
    places = encoder.convolutions(frames.permute(0, 3, 1, 2) / 255).view(2, 6, 2)
    moved = places[1] - places[0]
    seen = moved.norm(dim=-1) > 0.01  # the others respond most to the empty ground or its edge
    assert seen.sum() >= 3
    assert torch.allclose(moved[seen], torch.tensor([-2 * 2 / 11, 3 * 2 / 15]).expand_as(moved[seen]), atol=0.01)


def test_keypoints_know_things_where_they_were_not_seen() -> None:
    """A dot is shown in one place of fifteen; then it is in the others."""
    at = torch.cartesian_prod(torch.arange(1, 31), torch.arange(1, 31))
    frames = torch.zeros(len(at), 32, 32, 3, dtype=torch.uint8)
    for frame, (row, column) in zip(frames, at.tolist(), strict=True):
        frame[row - 1 : row + 2, column - 1 : column + 2] = 255
    shown = torch.rand(len(at), generator=torch.Generator().manual_seed(2)) < 1 / 15

    def error(pooling: str) -> float:
        """Root mean square in pixels."""
        torch.manual_seed(0)
        encoder = PixelEncoder((32, 32, 3), (8, 16), 32, 2, pooling)
        encoder.calibrate(frames[shown])
        optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(1)
        seen, places = frames[shown], at[shown] / 15.5 - 1
        for _ in range(150):
            index = torch.randint(len(seen), (64,), generator=generator)
            optimizer.zero_grad()
            (encoder(seen[index]) - places[index]).square().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            return float((encoder(frames[~shown]) - at[~shown] / 15.5 + 1).square().mean().sqrt() * 15.5)

    assert error("keypoints") < error("flatten") / 2


def seen_by(encoder: PixelEncoder, frames: torch.Tensor) -> torch.Tensor:
    """What the first convolution sees: its response is that to pictures of this background and contrast."""
    seen: list[torch.Tensor] = []
    hook = encoder.convolutions[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        encoder(frames)
        hook.remove()
        background, contrast = encoder.get_buffer("background"), encoder.get_buffer("contrast")
        pictures = ((frames / 255 - background) * contrast).permute(0, 3, 1, 2)
        assert torch.allclose(seen[0], encoder.convolutions[0](pictures), atol=1e-4)
    return pictures


def test_pictures_are_freed_of_their_background_once() -> None:
    encoder = PixelEncoder((8, 8, 3), (2,), 4, 5)
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 8, 8, 3)
    assert torch.equal(seen_by(encoder, extremes).unique(), torch.tensor([-0.5, 0.5]))
    frames = torch.randint(256, (50, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames[:, 4:] = 200  # a floor that never changes
    encoder.calibrate(frames)
    seen = seen_by(encoder, frames)
    assert seen.shape == (50, 3, 8, 8)
    assert torch.allclose(seen.mean(0), torch.zeros(()), atol=1e-5)
    assert torch.allclose(seen[:, :, 4:], torch.zeros(()), atol=1e-5)
    assert seen.std() == pytest.approx(1.0, abs=1e-3)
    encoder.calibrate(255 - frames)
    assert torch.equal(seen_by(encoder, frames), seen)  # a second call would shift the latents
    other = PixelEncoder((8, 8, 3), (2,), 4, 5)
    other.load_state_dict(encoder.state_dict())
    other.calibrate(255 - frames)
    assert torch.equal(seen_by(other, frames), seen)


@torch.no_grad()
def test_faint_changes_before_a_strong_background_spread_the_features() -> None:
    generator = torch.Generator().manual_seed(0)
    background = torch.randint(20, 236, (16, 16, 3), generator=generator)
    frames = background.expand(60, 16, 16, 3).clone()
    for frame, (row, column) in zip(frames, torch.randint(14, (60, 2), generator=generator).tolist(), strict=True):
        frame[row : row + 2, column : column + 2] += 15  # a small thing that moves
    frames = frames.to(torch.uint8)
    encoder = PixelEncoder((16, 16, 3), (8, 16), 32, 24)

    def spread() -> float:
        """Standard deviation over the pictures, in units of the features' size."""
        features = encoder(frames)
        return float(features.std(dim=0).mean() / features.square().mean().sqrt())

    before = spread()
    encoder.calibrate(frames)
    assert before < 0.01  # they all look the same
    assert spread() > 0.2


def test_a_still_picture_is_not_blown_up() -> None:
    encoder = PixelEncoder((8, 8, 3), (2,), 4, 5)
    frames = torch.full((4, 8, 8, 3), 7, dtype=torch.uint8)
    encoder.calibrate(frames)
    assert torch.allclose(seen_by(encoder, frames), torch.zeros(()), atol=1e-3)
    assert seen_by(encoder, frames + 1).abs().max() < 5


@torch.no_grad()
def test_obs_encoder_joins_every_source() -> None:
    encoder = ObsEncoder(OBS, hidden=12, layers=1, channels=(4,), features=7)
    generator = torch.Generator().manual_seed(0)
    obs = {
        k: torch.randint(256, (3, *s.shape), dtype=torch.uint8, generator=generator)
        if s.is_image
        else torch.randn(3, *s.shape, generator=generator)
        for k, s in OBS.items()
    }
    out = encoder(obs)
    assert out.shape == (3, 7)
    for key, value in obs.items():
        assert not torch.allclose(encoder({**obs, key: value.roll(1, 0)}), out), key


def test_a_single_source_needs_no_join() -> None:
    assert isinstance(ObsEncoder(VECTORS, 12, 2, (4,), 7).join, nn.Identity)
    state = ObsEncoder(VECTORS, 12, 2, (4,), 7).state
    assert isinstance(state, nn.Sequential)
    assert [m.out_features for m in state if isinstance(m, nn.Linear)] == [12, 12, 7]
    assert ObsEncoder({"front": OBS["front"]}, 12, 2, (4,), 7).state is None
